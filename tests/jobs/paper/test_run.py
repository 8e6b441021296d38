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
from jobs.paper.methods import METHODS, WITHOUT_SEED, Clock, Task, tied_lists
from jobs.paper.published_numbers import EXACT_POPULARITY, METRICS, TABLE_1, TITLES
from jobs.settings.paper import PaperSettings
from models.cold_start.input_vector import Layout
from models.evaluation.metrics import score
from tests.helpers import small_deezer, small_week

SEGMENTS, EPOCHS, MODELS = 8, 2, 2


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


def few_epochs():
    """Return settings in which the baselines learn for one epoch."""
    settings = small_week.settings()
    short = {name: getattr(settings, name).model_copy(update={"epochs": 1}) for name in ("dropoutnet", "melu")}
    return settings.model_copy(update=short)


@pytest.fixture
def task(context):
    data = deezer.load(context, inspect(small_deezer.folder(), "tt_svd"))
    return Task(data, PaperSettings(segments=SEGMENTS, epochs=EPOCHS, device="cpu"), 7, method_recipes(few_epochs()))


class TestPopularity:
    """On the published files, Popularity must reproduce the published numbers."""

    def published_values(self, task):
        task.data.facts["claims"] = True
        truth = task.data.parts["test"].truth
        values = score(np.tile(np.arange(50), (len(truth), 1)), truth, 50)
        values["ndcg"] = tied_ndcg(np.asarray(task.heard_UN.sum(axis=0))[None].repeat(len(truth), 0), truth, 50)
        return {name: round(100 * float(np.mean(values[name])), 4) for name in METRICS}

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


def tied_ndcg(scores_BN, truth, k):
    """Return the NDCG of scikit-learn, which averages over ties, as in the authors' code."""
    from sklearn.metrics import ndcg_score

    relevance_BN = np.zeros(scores_BN.shape)
    for b in range(len(truth)):
        relevance_BN[b, truth.row(b)] = 1
    return [ndcg_score(relevance_BN[b : b + 1], scores_BN[b : b + 1], k=k) for b in range(len(truth))]


def listeners_of(labels_U, k, heard_UN):
    """Return how many members of each segment streamed each track, (K, N)."""
    member = csr_matrix((np.ones(len(labels_U)), (labels_U, np.arange(len(labels_U)))), shape=(k, len(labels_U)))
    return (member @ csr_matrix(heard_UN)).toarray()


class TestTies:
    """Every list that is a ranking by listeners has the tie rule of the published table."""

    @pytest.mark.parametrize(
        "name", ["semi_pers", "linear_regression_semi", "input_features_clustering", "dropoutnet_semi", "melu_semi"]
    )
    def test_rankings_of_segments(self, task, name):
        method = METHODS[name](task)
        lists, values = paper.score_method(task, method)
        assert lists.shape == (40, 100)
        test = task.data.parts["test"]
        segment_B = method.segments(test.x_BF)
        labels_U = getattr(method, "labels", task.clusters.labels)
        counts_BN = listeners_of(labels_U, len(method.centroids), task.heard_UN)[segment_B]
        for k in (25, 50, 100):
            expected = tied_ndcg(counts_BN, test.truth, k)
            np.testing.assert_allclose(values[k]["ndcg"], expected, rtol=1e-12)
            np.testing.assert_array_equal(
                values[k]["ndcg_in_order"], score(lists[:, :k], test.truth, k)["ndcg"], strict=True
            )
            assert (values[k]["ndcg"] != values[k]["ndcg_in_order"]).any()

    def test_popularity_and_listeners_who_get_it(self, task):
        test = task.data.parts["test"]
        counts_BN = np.asarray(task.heard_UN.sum(axis=0))[None].repeat(40, 0)
        expected = np.array(tied_ndcg(counts_BN, test.truth, 50))
        _, values = paper.score_method(task, METHODS["popularity"](task))
        np.testing.assert_allclose(values[50]["ndcg"], expected, rtol=1e-12)
        _, values = paper.score_method(task, METHODS["registration_day_streams"](task))
        has_streams = test.x_BF[:, task.data.layout.block("streamed_songs")].any(axis=1)
        assert 0 < has_streams.sum() < 40
        np.testing.assert_allclose(values[50]["ndcg"][~has_streams], expected[~has_streams], rtol=1e-12)
        np.testing.assert_array_equal(values[50]["ndcg"][has_streams], values[50]["ndcg_in_order"][has_streams])

    @pytest.mark.parametrize("name", ["full_pers", "near_segments", "registration_day_streams_no_fallback"])
    def test_scores_of_vectors_do_not_tie(self, task, name):
        method = METHODS[name](task)
        assert tied_lists(task, method, task.data.parts["test"].x_BF) is None


def test_over_models_by_hand():
    rows = [
        {25: {"ndcg": {"mean": 1.0, "spread": 0.2}, "no_interaction": 4.0}},
        {25: {"ndcg": {"mean": 3.0, "spread": 0.4}, "no_interaction": 8.0}},
    ]
    cells = paper.over_models(rows, 25)
    assert cells["ndcg"] == {"mean": 2.0, "spread": pytest.approx(0.3), "deviation": pytest.approx(2**0.5)}
    assert (cells["models"], cells["no_interaction"]) == (2, 6.0)
    assert paper.over_models(rows[:1], 25)["ndcg"]["deviation"] is None
    rows[1][25]["no_interaction"] = None
    assert paper.over_models(rows, 25)["no_interaction"] is None


def test_further_models_have_seeds_of_their_own_and_share_the_data(task):
    _ = task.heard_UN, task.linear_regression
    further = task.with_seed(8, Clock())
    assert further.heard_UN is task.heard_UN
    assert further.linear_regression is task.linear_regression
    assert (further.clusters.labels != task.clusters.labels).any()
    x_BF = task.data.parts["test"].x_BF
    assert (further.network(x_BF) != task.network(x_BF)).any()
    assert task.losses != further.losses
    assert len(task.losses) == len(further.losses) == EPOCHS


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
def overture(home, command, monkeypatch):
    """Run a command in a home with an empty MLflow database; the baselines learn for one epoch."""
    monkeypatch.setenv("OVERTURE__DROPOUTNET__EPOCHS", "1")
    monkeypatch.setenv("OVERTURE__MELU__EPOCHS", "1")
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
    arguments = ["--segments", SEGMENTS, "--epochs", EPOCHS, "--models", MODELS, "--out", tmp_path / "page", *options]
    code, out, err = overture("paper", "--data", folder, "--space", space, *arguments)
    assert code == 0, err
    last = json.loads(out.splitlines()[-1])
    report = json.loads((tmp_path / "page" / "report.json").read_text())
    assert last["methods"] == report["methods"] == report["lengths"]["50"]
    means = {name: {metric: cells[metric]["mean"] for metric in METRICS} for name, cells in last["methods"].items()}
    assert means["popularity"] == pytest.approx(popularity_by_hand(home / "deezer" / space, space), abs=1e-9)
    for name in METHODS:
        assert f"paper: evaluate {name}: " in err
        assert (f"paper: model 2 of 2: evaluate {name}: " in err) == (name not in WITHOUT_SEED)
        deviations = [last["methods"][name][metric]["deviation"] for metric in METRICS]
        assert (deviations == [None] * 3) == (name in WITHOUT_SEED)
        assert last["methods"][name]["models"] == (1 if name in WITHOUT_SEED else MODELS)
        by_length = [report["lengths"][k][name]["recall"]["mean"] for k in ("25", "50", "100")]
        assert by_length[0] < by_length[1] < by_length[2], "more places find more tracks"
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
    check_lengths(page.tables["lengths"], report)
    for row in page.tables["no-interaction"][1:]:
        name = next(name for name, title in report["titles"].items() if title == row[0])
        assert row[1] == f"{report['methods'][name]['no_interaction']:.2f} %"
    assert [row[0] for row in page.tables["seconds"][1:]] == list(report_seconds(err))
    assert len(page.tables["figure-5"]) == 1 + len(METHODS)
    check_mlflow(home, last, report)


def report_seconds(err):
    """Return stage -> seconds in the order in which stages ended, from the lines on stderr."""
    lines = [line.removeprefix("paper: ") for line in err.splitlines() if line.startswith("paper: ")]
    lines = [line for line in lines if not line.startswith("model ")]
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


def popularity_by_hand(folder, space):
    """Return the metrics of the fifty most popular tracks in %, ties averaged."""
    data = deezer.open_folder(folder, space)
    truth = data.parts["test"].truth
    values = score(np.tile(np.arange(50), (len(truth), 1)), truth, 50)
    counts_N = np.bincount(data.parts["train"].truth.ids, minlength=small_deezer.TRACKS)
    values["ndcg"] = tied_ndcg(counts_N[None].repeat(len(truth), 0), truth, 50)
    return {name: 100 * float(np.mean(values[name])) for name in METRICS}


def check_lengths(rows, report):
    assert rows[0] == ["method", *(f"{m}@{k}, %" for k in (25, 50, 100) for m in ("Precision", "Recall", "NDCG"))]
    by_title = {row[0]: row[1:] for row in rows[1:]}
    for name in report["methods"]:
        cells = [report["lengths"][k][name][metric] for k in ("25", "50", "100") for metric in METRICS]
        expected = [f"{c['mean']:.2f}" + ("" if c["deviation"] is None else f" ± {c['deviation']:.2f}") for c in cells]
        assert by_title[report["titles"][name]] == expected


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
    """Context with eight segments, one length, one fit, and an empty MLflow database."""
    database = context.home / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    database.write_bytes(small_week.empty_database())
    paper = PaperSettings(segments=SEGMENTS, other_k=(), models=1)
    context.settings = context.settings.model_copy(update={"paper": paper})
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
