"""Test the paper's experiment: its functions on small inputs, the check of Popularity, and the full command."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from contracts.errors import CheckFailed
from jobs.cold_start.methods import method_recipes
from jobs.ingest.deezer import adapter as deezer
from jobs.ingest.deezer.files import inspect
from jobs.paper import breakdowns
from jobs.paper import run as paper
from jobs.paper.methods import METHODS, Clock, Task, segment_levels
from jobs.paper.published_numbers import EXACT_POPULARITY, METRICS, TABLE_1, TITLES
from jobs.settings.paper import PaperSettings
from models.cold_start.input_vector import Layout
from models.evaluation.metrics import score
from tests.helpers import small_deezer, small_week

SEGMENTS, EPOCHS = 8, 2


class TestBreakdowns:
    def test_spread_is_the_standard_deviation_of_ten_chunk_means(self):
        import statistics

        import torch

        values = np.random.default_rng(0).random(53)
        means = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            order = torch.randperm(53)
            means += [values[order[n * 10 : n * 10 + 10]].mean() for n in range(5)]
        assert breakdowns.spread(values) == pytest.approx(statistics.stdev(means), rel=1e-12)
        assert breakdowns.spread(np.ones(3)) == 0

    def test_figure_4_by_hand(self):
        counts = np.array([0, 0, 1, 3, 4, 9])
        values = np.array([0.1, 0.3, 0.5, 0.2, 0.4, 1.0])
        rows = breakdowns.by_count(values, counts, (0, 1, 2, 3, 5), min_users=1)
        assert [row["class"] for row in rows] == ["0", "1", "3-4", "5+"], "no user has count 2"
        assert [row["users"] for row in rows] == [2, 1, 2, 1]
        np.testing.assert_allclose([row["value"] for row in rows], [0.2, 0.5, 0.3, 1.0])
        assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
        assert rows[1]["low"] == rows[1]["high"] == 0.5
        assert [row["class"] for row in breakdowns.by_count(values, counts, (0, 1, 3), min_users=2)] == ["0", "3+"]

    def test_figure_5_by_hand(self):
        result = breakdowns.popularity(np.array([[0, 1], [2, 90]]), 100, 50)
        assert result["median"] == 1.5
        assert result["in_top"] == 0.75
        assert result["distinct"] == 4
        assert result["bin"] == 2
        assert result["share"][0] == 0.5
        assert result["share"][45] == 0.25
        assert sum(result["share"]) == 1

    def test_countries_are_distinguished_by_their_vectors(self):
        layout = Layout(4)
        x = np.zeros((7, layout.size), np.float32)
        x[:3, layout.block("country")] = [1, 2, 3, 4]
        x[3:5, layout.block("country")] = [0, 0, 0, -1]
        x[5, layout.block("country")] = [1, 2, 3, 5]
        countries = breakdowns.Countries(x, layout)
        assert countries.of(x) == ["country 1"] * 3 + ["country 2"] * 2 + ["country 3", None]
        unknown = np.full((1, layout.size), 9, np.float32)
        assert countries.of(unknown) == [None]

    def test_table_2_contains_the_traits_with_the_highest_lift(self):
        labels = np.repeat([0, 1, 2], [10, 10, 2])
        countries = ["country 1"] * 8 + ["country 2"] * 2 + ["country 2"] * 10 + [None] * 2
        ages = np.array([20] * 10 + [-1] * 10 + [70] * 2)
        lists = np.arange(30).reshape(3, 10)
        rows = breakdowns.table_2(labels, 3, countries, ages, lists, np.arange(100, 130), min_users=3)
        assert {row["segment"] for row in rows} == {0, 1}, "two listeners are too few to be shown"
        first = next(row for row in rows if row["segment"] == 0)
        assert first["users"] == 10
        assert first["countries"][0] == {"name": "country 1", "share": 0.8, "lift": 2.0}
        assert first["ages"][0]["name"] == "18-24"
        assert first["songs"] == [100, 101, 102, 103, 104]

    def test_no_interaction_selects_users_without_first_day_signals(self):
        layout = Layout(4)
        x = np.ones((3, layout.size), np.float32)
        x[:2, 20 * 4 + 1 :] = 0
        x[1, layout.scalar("nb_banned_songs")] = 2
        x[0, layout.scalar("age_value")] = 31
        assert breakdowns.no_interaction(x, layout).tolist() == [True, False, False]


def test_the_clock_excludes_inner_stages_from_outer_stages(monkeypatch):
    now = iter([0.0, 1.0, 4.0, 9.0])
    monkeypatch.setattr("jobs.paper.methods.time.perf_counter", lambda: next(now))
    clock = Clock()
    with clock.stage("outer"), clock.stage("inner"):
        pass
    assert clock.seconds == {"inner": 3.0, "outer": 6.0}


@pytest.mark.parametrize("space", ["tt_svd", "ut_als"])
def test_published_numbers_are_complete(space):
    assert set(TABLE_1[space]) == set(TITLES)
    for row in TABLE_1[space].values():
        assert len(row) == len(METRICS)
        assert all(mean > spread > 0 for mean, spread in row)
    rounded = [round(EXACT_POPULARITY[name], 2) for name in METRICS]
    assert rounded == [mean for mean, _ in TABLE_1[space]["popularity"]]


@pytest.fixture
def task(context):
    data = deezer.load(context, inspect(small_deezer.folder(), "tt_svd"))
    return Task(
        data, PaperSettings(segments=SEGMENTS, epochs=EPOCHS, device="cpu"), 7, method_recipes(small_week.settings())
    )


class TestPopularity:
    """On the published files, Popularity must reproduce the published numbers."""

    def published_values(self, task):
        task.data.facts["claims"] = True
        truth = task.data.parts["test"].truth
        values = score(np.tile(np.arange(50), (len(truth), 1)), truth, 50)
        return {name: round(100 * float(values[name].mean()), 4) for name in METRICS}

    def test_the_check_is_skipped_for_other_files_and_reported(self, task):
        check = paper.check_popularity(task)
        assert not check["done"]
        assert "synthetic (users=400 tracks=300 seed=3)" in check["message"]

    def test_equal_numbers_pass(self, task, monkeypatch):
        monkeypatch.setattr(paper, "EXACT_POPULARITY", self.published_values(task))
        check = paper.check_popularity(task)
        assert check["done"]
        assert check["values"] == self.published_values(task)

    def test_a_difference_in_the_fourth_digit_raises(self, task, monkeypatch):
        got = self.published_values(task)
        monkeypatch.setattr(paper, "EXACT_POPULARITY", got | {"recall": got["recall"] + 1e-4})
        with pytest.raises(CheckFailed, match=f"{got['precision']:.4f}.*instead of.*song_index give"):
            paper.check_popularity(task)


def test_ties_are_averaged_for_methods_that_return_segment_lists(task):
    method = METHODS["semi_pers"](task)
    assert segment_levels(task, method) is task.levels_KL
    assert segment_levels(task, METHODS["popularity"](task)) is None
    lists, values = paper.score_method(task, method)
    assert lists.shape == (40, 50)
    member = csr_matrix((np.ones(280), (task.warm.labels_U, np.arange(280))), shape=(SEGMENTS, 280))
    counts = (member @ csr_matrix(task.heard_UN)).toarray()
    from sklearn.metrics import ndcg_score

    test = task.data.parts["test"]
    segment = method.segments(test.x_BF)
    for row in (0, 11, 39):
        relevance = np.zeros((1, small_deezer.TRACKS))
        relevance[0, test.truth.row(row)] = 1
        expected = ndcg_score(relevance, counts[segment[row]][None], k=50)
        assert values["ndcg"][row] == pytest.approx(expected, rel=1e-12)
    assert (values["ndcg"] != values["ndcg_in_order"]).any()


class Page(HTMLParser):
    """Parsed page: tables by id as rows of cell texts, and the addresses that the page loads."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.loads, self.rows = {}, [], None
        self.open, self.cell = [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.loads += [attrs[name] for name in ("src", "href") if name in attrs]
        if tag == "table":
            self.rows = self.tables[attrs["id"]] = []
        elif tag == "tr" and self.rows is not None:
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.cell = []

    def handle_data(self, data):
        if self.cell is not None:
            self.cell.append(data)

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self.cell is not None:
            self.rows[-1].append("".join(self.cell).strip())
            self.cell = None
        elif tag == "table":
            self.rows = None


@pytest.fixture
def overture(home, command):
    """Run a command in a home with an empty MLflow database."""
    database = home / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    database.write_bytes(small_week.empty_database())
    return command


@pytest.mark.parametrize(
    ("space", "encoding", "options"),
    [("tt_svd", "array", ["--recipe", "paper"]), ("ut_als", "json", ["--recipe", "code", "--similarity", "dot"])],
)
def test_the_command_writes_the_page_the_report_and_the_mlflow_run(overture, home, tmp_path, space, encoding, options):
    folder = small_deezer.folder(encoding)
    arguments = ["--segments", SEGMENTS, "--epochs", EPOCHS, "--out", tmp_path / "page", *options]
    code, out, err = overture("paper", "--data", folder, "--space", space, *arguments)
    assert code == 0, err
    last = json.loads(out.splitlines()[-1])
    report = json.loads((tmp_path / "page" / "report.json").read_text())
    for name in METHODS:
        for metric in METRICS:
            assert 0 <= last["methods"][name][metric]["mean"] <= 100
            assert last["methods"][name][metric] == report["methods"][name][metric]
        assert f"paper: evaluate {name}: " in err
    assert "check of Popularity: skipped" in err
    assert report["settings"]["recipe"] == options[1]
    assert report["recipe"]["epochs"] == EPOCHS
    assert len(report["losses"]) == EPOCHS
    assert set(report["figure_4"]) == {"onboarding artists", "streams", "skips"}
    assert report["no_interaction"]["users"] > 0
    page = Page((tmp_path / "page" / "index.html").read_text())
    assert page.loads
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.loads), "the page loads no other file"
    check_table_1(page.tables["table-1"], report)
    for row in page.tables["no-interaction"][1:]:
        name = next(name for name, title in report["titles"].items() if title == row[0])
        assert row[1] == f"{report['methods'][name]['no_interaction']:.2f} %"
    assert [row[0] for row in page.tables["seconds"][1:]] == list(report_seconds(err))
    assert len(page.tables["figure-5"]) == 1 + len(METHODS)
    check_mlflow(home, last, report)


def report_seconds(err):
    """Return stage -> seconds in the order in which stages ended, from the lines on stderr."""
    lines = [line.removeprefix("paper: ") for line in err.splitlines() if line.startswith("paper: ")]
    return dict(line.rsplit(": ", 1) for line in lines if line.endswith(" s"))


def check_table_1(rows, report):
    by_title = {row[0]: row[1:] for row in rows[2:]}
    for name, title in report["titles"].items():
        cells = by_title[title]
        for index, metric in enumerate(METRICS):
            published = report["published"]["methods"].get(name, {}).get(metric)
            assert cells[2 * index + 1] == (
                f"{published['mean']:.2f} ± {published['spread']:.2f}" if published else "–"
            )
            if name in report["methods"]:
                reproduced = report["methods"][name][metric]
                assert cells[2 * index] == f"{reproduced['mean']:.2f} ± {reproduced['spread']:.2f}"
            else:
                assert cells[2 * index] == "not run"


def check_mlflow(home, last, report):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home}/mlflow/mlflow.db")
    run = client.get_run(last["mlflow_run"])
    assert client.get_experiment(run.info.experiment_id).name == "paper"
    assert run.info.status == "FINISHED"
    assert run.data.tags["space"] == report["space"]
    assert run.data.metrics["semi_pers.ndcg"] == report["methods"]["semi_pers"]["ndcg"]["mean"]
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"index.html", "report.json", "table_1.json", "figures"} <= artifacts


def test_methods_without_a_network_do_not_train_it(overture, tmp_path):
    code, out, err = overture(
        "paper",
        "--data",
        small_deezer.folder(),
        "--segments",
        SEGMENTS,
        "--out",
        tmp_path / "page",
        "--methods",
        "registration_day_streams,popularity",
    )
    assert code == 0, err
    assert set(json.loads(out.splitlines()[-1])["methods"]) == {"popularity", "registration_day_streams"}
    assert "train the network" not in err
    page = Page((tmp_path / "page" / "index.html").read_text())
    assert next(row for row in page.tables["table-1"] if row[0] == "Deezer Semi-Pers.")[1] == "not run"


@pytest.fixture
def small_context(context):
    """Context with eight segments and an empty MLflow database."""
    database = context.home / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    database.write_bytes(small_week.empty_database())
    context.settings = context.settings.model_copy(update={"paper": PaperSettings(segments=SEGMENTS)})
    return context


def test_an_added_method_is_shown_without_published_numbers(small_context, tmp_path):
    """A method that is not in the paper is shown in the table without published numbers."""
    methods = {"popularity": METHODS["popularity"], "our_own": METHODS["registration_day_streams"]}
    paper.run(small_context, small_deezer.folder(), "tt_svd", tmp_path / "page", methods)
    rows = {row[0]: row for row in Page((tmp_path / "page" / "index.html").read_text()).tables["table-1"]}
    assert rows["our own"][2] == "–"
    assert rows["our own"][1] != "not run"


def test_a_method_that_fails_leaves_a_failed_run_and_no_page(small_context, tmp_path):
    def broken(_):
        raise ValueError("cannot be fitted")

    with pytest.raises(ValueError, match="cannot be fitted"):
        paper.run(small_context, small_deezer.folder(), "tt_svd", tmp_path / "page", {"broken": broken})
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{small_context.home}/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("paper").experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "cannot be fitted"
    assert not (tmp_path / "page").exists()


def test_repeated_runs_give_equal_numbers(overture, tmp_path):
    results = []
    for name in ("a", "b"):
        code, out, err = overture(
            "paper",
            "--data",
            small_deezer.folder(),
            "--segments",
            SEGMENTS,
            "--epochs",
            EPOCHS,
            "--out",
            tmp_path / name,
        )
        assert code == 0, err
        results.append(json.loads(out.splitlines()[-1])["methods"])
    assert results[0] == results[1]
