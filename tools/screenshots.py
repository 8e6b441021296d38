"""Take the screenshots of README and docs/: `make screenshots`.

Input   the state of a finished `make demo` under OVERTURE_HOME; if Airflow, MLflow and the service are not running,
        they are started and stopped again
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
    from playwright.sync_api import FloatRect, Page

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
AIRFLOW, MLFLOW, SERVICE = (f"http://127.0.0.1:{port}" for port in (8080, 5000, 8600))
SIZE = {"width": 1400, "height": 900}
SETTLE_MS = 2_500  # graphs and tables are drawn after a page has loaded


def home() -> Path:
    """Return the folder of the demo's state."""
    return Path(os.environ.get("OVERTURE_HOME", ROOT / ".overture"))


def services(action: str) -> None:
    """Start (`up`) or stop (`down`) Airflow, MLflow and the service."""
    subprocess.run([sys.executable, "-m", "jobs.local.services", action], cwd=ROOT, check=True)


def are_up() -> bool:
    """Return whether the online service responds."""
    with suppress(OSError), urlopen(f"{SERVICE}/healthz", timeout=2) as response:
        return bool(response.status == 200)
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
    page.get_by_label("Show Graph").click()
    page.get_by_label("Expand all task groups").click()
    page.get_by_label("Collapse Details Panel").click()
    page.wait_for_timeout(SETTLE_MS)
    page.get_by_label("Fit View").click()


def graph_area(page: Page) -> FloatRect:
    """Return the rectangle around the nodes of the graph, in CSS pixels, with a margin."""
    boxes = [box for node in page.locator(".react-flow__node").all() if (box := node.bounding_box())]
    left, top = (min(box[key] for box in boxes) - 12 for key in ("x", "y"))
    right = max(box["x"] + box["width"] for box in boxes) + 12
    bottom = max(box["y"] + box["height"] for box in boxes) + 12
    return {"x": left, "y": top, "width": right - left, "height": bottom - top}


def trigger_form(page: Page) -> None:
    """Open the trigger form of the weekly DAG."""
    page.goto(f"{AIRFLOW}/dags/cold_start_weekly")
    page.get_by_role("button", name="Trigger").first.click()


def week_in_mlflow(page: Page) -> None:
    """Open MLflow's list of the runs of the weekly experiment."""
    page.goto(f"{MLFLOW}/#/experiments/{experiment_id()}/runs")
    close_assistant(page)
    parent = page.locator(".ag-row a").first
    parent.wait_for()
    box = parent.bounding_box()
    if box:  # the expander of the parent run has no label; it is left of the run's name
        page.mouse.click(box["x"] - 26, box["y"] + box["height"] / 2)


def close_assistant(page: Page) -> None:
    """Close the panel that MLflow opens beside its pages."""
    with suppress(Exception):
        page.get_by_label("Close", exact=True).click(timeout=4 * SETTLE_MS)


def figures_in_mlflow(page: Page) -> None:
    """Open a figure among the artifacts of the week's runs."""
    run, path = figure_artifact()
    page.goto(f"{MLFLOW}/#/experiments/{experiment_id()}/runs/{run}/artifacts/{path}")
    close_assistant(page)
    page.get_by_text("Path:").first.wait_for()
    page.get_by_text("Path:").first.evaluate("element => element.remove()")  # a path of this machine


def data_quality(page: Page) -> None:
    """Open the newest page of data checks."""
    newest = max((home() / "quality").glob("*/index.html"), key=lambda file: file.stat().st_mtime)
    page.goto(newest.resolve().as_uri())


def listener_page(page: Page) -> None:
    """Open the service's page and enter a first day: country, age, two artists and some streams."""
    page.goto(SERVICE)
    page.locator("#tracks li").first.wait_for()
    page.select_option("#country", "FR")
    page.fill("#age", "23")
    page.locator("#artists button").nth(3).click()
    for track in (0, 1):
        page.wait_for_timeout(SETTLE_MS // 2)
        page.locator("#tracks li").nth(track).get_by_role("button").nth(track).click()


def api_docs(page: Page) -> None:
    """Open the API's page."""
    page.goto(f"{SERVICE}/docs")


def experiment_id() -> str:
    """Return MLflow's id of the weekly experiment."""
    address = f"{MLFLOW}/api/2.0/mlflow/experiments/get-by-name?experiment_name=cold_start_weekly"
    with urlopen(address, timeout=10) as response:
        return str(json.load(response)["experiment"]["experiment_id"])


def figure_artifact() -> tuple[str, str]:
    """Return the run and the path of a figure that was logged for the week."""
    root = home() / "mlflow" / "artifacts"
    files = sorted(root.glob("*/artifacts/segment_map.png"))
    if not files:
        raise SystemExit(f"screenshots: no segment_map.png under {root}; run `make demo` first")
    run, _, *path = files[0].relative_to(root).parts
    return run, "/".join(path)


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
    """Take every screenshot, or those named in the arguments; return the exit code."""
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
            page = browser.new_page(viewport=SIZE, device_scale_factor=2)
            log_in(page)
            for name in names:
                SHOTS[name](page)
                page.wait_for_timeout(SETTLE_MS)
                if name == "airflow-graph":
                    page.screenshot(path=IMAGES / f"{name}.png", clip=graph_area(page))
                else:
                    page.screenshot(path=IMAGES / f"{name}.png", scale="css")
                print(f"docs/images/{name}.png", file=sys.stderr)
            browser.close()
    finally:
        if started:
            services("down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
