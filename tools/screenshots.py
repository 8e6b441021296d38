"""Take the pictures of README and docs/: `make screenshots`.

Input   the state of a finished `make demo` under OVERTURE_HOME; Airflow, MLflow and the service are started if they are
        not running, and ended again
Output  docs/images/*.png, in Chromium at 1400 x 900
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
AIRFLOW, MLFLOW, SERVICE = (f"http://127.0.0.1:{port}" for port in (8080, 5000, 8600))
SIZE = {"width": 1400, "height": 900}
SETTLE_MS = 2_500  # pages draw graphs and tables after they have loaded


def home() -> Path:
    """Return the folder of the demo's state."""
    return Path(os.environ.get("OVERTURE_HOME", ROOT / ".overture"))


def services(action: str) -> None:
    """Start (`up`) or end (`down`) Airflow, MLflow and the service."""
    subprocess.run([sys.executable, "-m", "jobs.local.services", action], cwd=ROOT, check=True)


def are_up() -> bool:
    """Return whether the online service answers."""
    with suppress(OSError), urlopen(f"{SERVICE}/healthz", timeout=2) as answer:
        return bool(answer.status == 200)
    return False


def log_in(page: Page) -> None:
    """Log in to Airflow with the local account."""
    page.goto(AIRFLOW)
    page.wait_for_selector("input[name=username]")
    page.fill("input[name=username]", "admin")
    page.fill("input[name=password]", "admin")
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    page.wait_for_timeout(SETTLE_MS)


def dag_list(page: Page) -> None:
    """Open Airflow's list of DAGs."""
    page.goto(f"{AIRFLOW}/dags")


def dag_graph(page: Page) -> None:
    """Open the graph of the weekly DAG, with its last run beside it."""
    page.goto(f"{AIRFLOW}/dags/cold_start_weekly")
    page.get_by_label("Show Graph").or_(page.get_by_label("Graph")).first.click()


def trigger_form(page: Page) -> None:
    """Open the trigger form of the weekly DAG."""
    page.goto(f"{AIRFLOW}/dags/cold_start_weekly")
    page.get_by_role("button", name="Trigger").first.click()


def week_in_mlflow(page: Page) -> None:
    """Open MLflow's list of the runs of the weekly experiment."""
    page.goto(f"{MLFLOW}/#/experiments/{experiment_id()}/runs")


def figures_in_mlflow(page: Page) -> None:
    """Open a figure among the artifacts of the week's runs."""
    run, path = figure_artifact()
    page.goto(f"{MLFLOW}/#/experiments/{experiment_id()}/runs/{run}/artifacts/{path}")


def data_quality(page: Page) -> None:
    """Open the newest page of data checks."""
    newest = max((home() / "quality").glob("*/index.html"), key=lambda file: file.stat().st_mtime)
    page.goto(newest.resolve().as_uri())


def listener_page(page: Page) -> None:
    """Open the service's page and give it a listener's first day: country, age, two artists and some streams."""
    page.goto(SERVICE)


def api_docs(page: Page) -> None:
    """Open the API's page."""
    page.goto(f"{SERVICE}/docs")


def experiment_id() -> str:
    """Return MLflow's id of the weekly experiment."""
    address = f"{MLFLOW}/api/2.0/mlflow/experiments/get-by-name?experiment_name=cold_start_weekly"
    with urlopen(address, timeout=10) as answer:
        return str(json.load(answer)["experiment"]["experiment_id"])


def figure_artifact() -> tuple[str, str]:
    """Return the run and the path of a figure that the week logged."""
    files = sorted(home().glob("mlflow/**/artifacts/**/*.png"))
    if not files:
        raise SystemExit(f"screenshots: no figure under {home() / 'mlflow'}; run `make demo` first")
    parts = files[0].parts
    at = parts.index("artifacts")
    return parts[at - 1], "/".join(parts[at + 1 :])


SHOTS: dict[str, Callable[[Page], None]] = {
    "airflow-dags": dag_list,
    "airflow-graph": dag_graph,
    "airflow-trigger": trigger_form,
    "mlflow-week": week_in_mlflow,
    "mlflow-figure": figures_in_mlflow,
    "data-quality": data_quality,
    "service-page": listener_page,
    "service-docs": api_docs,
}


def main() -> int:
    """Take every picture, or those that the arguments name; return the exit code."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        print("screenshots: Chromium is needed (Debian: apt install chromium)", file=sys.stderr)
        return 1
    if not (home() / "releases" / "champion.json").is_file():
        print(f"screenshots: no champion under {home()}; run `make demo` first", file=sys.stderr)
        return 1
    names = sys.argv[1:] or list(SHOTS)
    IMAGES.mkdir(parents=True, exist_ok=True)
    started = not are_up()
    if started:
        services("up")
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE)
            log_in(page)
            for name in names:
                SHOTS[name](page)
                page.wait_for_timeout(SETTLE_MS)
                page.screenshot(path=IMAGES / f"{name}.png")
                print(f"docs/images/{name}.png", file=sys.stderr)
            browser.close()
    finally:
        if started:
            services("down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
