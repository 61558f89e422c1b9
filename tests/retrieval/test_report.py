"""The report of a run: the command, the page, and in a real browser what a person does with it."""

import csv
import dataclasses
import json
import re
import shutil

import chromium
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import custom
from mfg_jax import checkpoint, embedding, evaluation, parallel
from mfg_jax import config as configs
from mfg_jax.metric_writer import MetricWriter
from mfg_jax.models import MFGNet
from mfg_jax.retrieval import Result, report, report_page
from mfg_jax.retrieval.ranked_lists import load_ranked_lists
from mfg_jax.retrieval.report_data import gather

pytestmark = pytest.mark.slow

HOSTILE_NAME = '<img src=x onerror="document.title=1">'
HOSTILE_FOLDER = "<script>document.title=2<"
HOSTILE_COLOUR = "</script><script>document.title=3</script><b>\"'&lt;"
STEP = 7


def draw_pictures(folder, vehicles=6):
    """Writes pictures and their manifest: 2 queries and 5 gallery pictures of each vehicle, three cameras."""
    rng = np.random.default_rng(0)
    rows = []
    for vehicle in range(vehicles):
        if (
            vehicle % 2 == 0
        ):  # every other vehicle has the paint of the one before: some are hard to tell apart
            paint = rng.integers(40, 216, 3)
        for number in range(7):
            split, camera = ("query", number) if number < 2 else ("gallery", number % 3)
            name = f"{HOSTILE_FOLDER}/script>{HOSTILE_NAME}{vehicle}_{number}.jpg"
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(-40, 41, (24, 32, 3))
            _, jpeg = cv2.imencode(".jpg", np.clip(paint + noise, 0, 255).astype(np.uint8))
            path.write_bytes(jpeg.tobytes())
            colour = HOSTILE_COLOUR if vehicle % 2 else "red"
            rows.append([name, vehicle, camera, split, colour, "bus" if vehicle < 2 else ""])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "id", "camera", "split", "color", "type"], *rows])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """What a run leaves that evaluated and saved an untrained network."""
    folder = tmp_path_factory.mktemp("report")
    draw_pictures(folder / "pictures")
    config = custom.get_config()
    config.data.manual_dir, config.data.data_dir = str(folder / "pictures"), str(folder / "data")
    config.data.height = config.data.width = 32
    config.model.update({"depth": 10, "width": 8, "stem_stride": 2, "head_width": 8, "granularities": (1, 2)})
    model = MFGNet(num_identities=6, **config.model)
    variables = jax.jit(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False))(
        jax.random.key(0)
    )
    mesh = parallel.make_mesh(jax.devices()[:1])
    splits = evaluation.open_splits(evaluation.open_dataset(config), config)
    run = folder / "run & <i>"
    evaluation.evaluate_variables(
        embedding.make_forward(model, mesh),
        parallel.replicate(variables, mesh),
        splits,
        mesh,
        config,
        step=STEP,
        workdir=run,
    )
    description = {"config": configs.to_json(config), "num_identities": 6}
    with checkpoint.open_manager(run / "checkpoints", keep_latest=1, best_metric=None) as manager:
        checkpoint.save(
            manager, STEP, variables=variables, optimizer={"n": jnp.zeros(1)}, description=description
        )
    with MetricWriter(run) as writer:
        for step in range(1, STEP + 1):
            writer.write(step, {"loss": 1 / step, "learning_rate": 10.0 ** -(step // 3), "epoch": step / 7})
        writer.write(STEP, {"evaluation/mAP": 0.4, "evaluation/mINP": 0.3, "evaluation/CMC@1": 0.5})
    return run


@pytest.fixture(scope="module")
def page(workdir):
    """The page of the run, written by the command."""
    assert report.main([f"--workdir={workdir}", "--no-figures"]) == 0
    return workdir / "report.html"


def page_data(path):
    """What the page's script works on."""
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1]
    )


def copy_of(workdir, tmp_path):
    """The run, to be spoilt."""
    return shutil.copytree(workdir, tmp_path / "run")


def fails(capsys, *options):
    """The one paragraph that the command ends with."""
    assert report.main([*options, "--no-figures", "--no-heat-maps"]) == 1
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert any(line.startswith("error: ") for line in message.splitlines())
    return message


def test_the_page_shows_what_was_evaluated(workdir, page):
    data = page_data(page)
    [path] = (workdir / "results").glob("*.json")
    draw = Result.from_json(path).draws[0]
    lists, _ = load_ranked_lists(path.with_name(f"{path.stem}_lists.npz"))
    assert data["counted"] == len(data["queries"]) == draw.counted.sum() == 12
    for row, line in enumerate(data["queries"]):
        own = data["pictures"][line["picture"]]
        assert own["identity"] == draw.query_id[row]
        assert line["average_precision"] == pytest.approx(draw.average_precision[row], abs=1e-4)
        assert line["first_hit"] == draw.first_hit[row]
        assert [result["correct"] for result in line["results"]] == lists.correct[row, :10].tolist()
        for result in line["results"]:
            shown = data["pictures"][result["picture"]]
            assert result["correct"] == (shown["identity"] == own["identity"])
            assert not (result["correct"] and shown["camera"] == own["camera"])  # left out by the protocol
    colours = {picture["attributes"]["colour"] for picture in data["pictures"].values()}
    assert colours == {"red", HOSTILE_COLOUR}


def test_the_page_needs_nothing_else_and_nothing_in_it_is_taken_for_markup(page):
    text = page.read_text()
    markup = re.sub(r'id="data">.*?</script>', "", text)
    assert not re.search(r"(src|href)\s*=\s*[\"']?(?!#|data:)[a-z/.]", markup)
    assert "default-src 'none'" in text
    for hostile in (HOSTILE_NAME, HOSTILE_FOLDER, HOSTILE_COLOUR, "& <i>"):
        assert hostile not in text
    assert len(re.findall("<script", text)) == 2


def test_heat_maps_are_there_for_queries_and_their_first_results(page):
    data = page_data(page)
    with_maps = {key for key, picture in data["pictures"].items() if picture["maps"]}
    assert with_maps == {
        key
        for line in data["queries"]
        for key in (line["picture"], *(result["picture"] for result in line["results"][:3]))
    }
    assert {layout["branch"] for layout in data["layouts"]} == {"1", "2"}


def test_results_of_one_step_stand_beside_each_other(workdir, tmp_path):
    run = copy_of(workdir, tmp_path)
    [path] = (run / "results").glob("*.json")
    plain = Result.from_json(path)
    reranked = dataclasses.replace(plain, reranking={"k1": 20}, plain=plain)
    other = path.with_name(f"csv_reranking_step_{STEP:08d}.json")
    reranked.to_json(other)
    shutil.copy(path.with_name(f"{path.stem}_lists.npz"), other.with_name(f"{other.stem}_lists.npz"))
    start = dataclasses.replace(plain, context={**plain.context, "step": 0})
    start.to_json(path.with_name(f"csv_step_{0:08d}.json"))
    assert list(gather(run, step=None, with_heat_maps=False).results) == [
        "step 7",
        "step 7, re-ranking",
        "untrained",
    ]
    report_of_other = gather(run, step=None, result_path=other, with_heat_maps=False)
    assert list(report_of_other.results) == ["step 7, re-ranking", "step 7"]
    text = report_page.render(report_of_other)
    assert "The lists, AP and INP are of the plain ranking" in text
    assert ">plain</th>" not in text  # it stands there as step 7
    path.unlink()
    assert ">plain</th>" in report_page.render(
        gather(run, step=None, result_path=other, with_heat_maps=False)
    )


def test_a_report_of_few_queries_says_so(workdir, tmp_path):
    out = tmp_path / "few.html"
    options = [f"--workdir={workdir}", f"--out={out}", "--queries=6", "--pixels=16"]
    assert report.main([*options, "--no-figures", "--no-heat-maps"]) == 0
    data = page_data(out)
    assert [
        sum(view in line["views"] for line in data["queries"]) for view in ("hardest", "best", "random")
    ] == [2] * 3
    hardest = {line["inverse_negative_penalty"] for line in data["queries"] if "hardest" in line["views"]}
    [path] = (workdir / "results").glob("*.json")
    inp = np.sort(Result.from_json(path).draws[0].inverse_negative_penalty)
    assert sorted(hardest) == pytest.approx(sorted(set(np.round(inp[:2], 4))))
    text = out.read_text()
    assert f"{len(data['queries'])} of 12 counted queries are here" in text
    assert "There are none: they were not asked for." in text
    assert max(max(picture["width"], picture["height"]) for picture in data["pictures"].values()) == 16


def test_pictures_for_papers(workdir, tmp_path, capsys):
    run = copy_of(workdir, tmp_path)
    shutil.rmtree(run / "pictures")
    assert report.main([f"--workdir={run}", "--no-heat-maps"]) == 0
    names = {f"ranked_lists_csv_step_{STEP:08d}_{view}" for view in ("hardest", "best", "random")}
    names |= {f"cmc_csv_step_{STEP:08d}", "curves"}
    assert {path.name for path in (run / "pictures").iterdir()} == {
        f"{name}{suffix}" for name in names for suffix in (".png", ".pdf")
    }
    for path in (run / "pictures").glob("*.png"):
        assert cv2.imread(str(path)).std() > 5
    assert "10 files" in capsys.readouterr().out


def test_without_its_checkpoint_the_report_has_no_heat_maps(workdir, tmp_path, capsys):
    run = copy_of(workdir, tmp_path)
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").unlink()
    assert report.main([f"--workdir={run}", "--no-figures"]) == 0
    assert "Without heat maps: the run keeps no checkpoint of step 7." in capsys.readouterr().err
    text = (run / "report.html").read_text()
    assert "There are none: the run keeps no checkpoint of step 7." in text
    assert "no curves of the training" in text


def test_what_is_missing_is_named(workdir, tmp_path, capsys):
    assert "no such directory" in fails(capsys, f"--workdir={tmp_path / 'none'}")
    (tmp_path / "empty").mkdir()
    assert "no results yet" in fails(capsys, f"--workdir={tmp_path / 'empty'}")
    assert "no result of step 8. Steps evaluated: 7" in fails(capsys, f"--workdir={workdir}", "--step=8")
    assert "cannot be read" in fails(capsys, f"--workdir={workdir}", "--result=none.json")
    assert "cannot be written" in fails(capsys, f"--workdir={workdir}", "--out=/proc/report.html")
    nothing = tmp_path / "nothing"
    message = fails(capsys, f"--workdir={workdir}", f"--data-dir={nothing}", f"--manual-dir={nothing}")
    assert str(nothing) in message
    with pytest.raises(SystemExit):
        report.main([f"--workdir={workdir}", "--queries=2"])
    assert "--queries is 2; it has to be at least 3" in capsys.readouterr().err
    run = copy_of(workdir, tmp_path)
    [lists] = (run / "results").glob("*_lists.npz")
    lists.unlink()
    assert "--mode=evaluate" in fails(capsys, f"--workdir={run}")


def test_other_pictures_than_those_evaluated_are_refused(workdir, tmp_path, capsys):
    draw_pictures(tmp_path / "pictures", vehicles=5)
    options = [f"--data-dir={tmp_path / 'data'}", f"--manual-dir={tmp_path / 'pictures'}"]
    assert "its list of images differs" in fails(capsys, f"--workdir={workdir}", *options)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A real browser."""
    executable = chromium.find()
    if executable is None:
        pytest.skip("No Chromium or Chrome is installed (on Debian: apt install chromium).")
    browser = chromium.Browser(executable, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def opened(browser, page):
    """The page in the browser, 1,000 pixels wide; it must not have complained when the test ends."""
    browser.problems.clear()
    browser.requests.clear()
    browser.resize(1000)
    browser.open(page)
    yield browser
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith(("data:", page.parent.as_uri()))] == []


LINES = "[...document.querySelectorAll('#lines .line')]"
IDENTITIES = f"{LINES}.map((line) => line.querySelector('strong').textContent)"


def inverse_negative_penalties(browser):
    return browser.run(f"{LINES}.map((line) => Number(/INP ([0-9][.][0-9]{{3}})/.exec(line.textContent)[1]))")


def choose(browser, selector, value):
    """Chooses an option, as a person would from the list that the browser draws outside the page."""
    browser.run(
        f"(() => {{ const list = document.querySelector('{selector}'); list.value = '{value}';"
        "list.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def test_lists_are_sorted_in_the_browser(opened):
    hardest = inverse_negative_penalties(opened)
    assert hardest == sorted(hardest)
    assert len(hardest) == 12
    assert hardest[0] < hardest[-1]
    of_hardest = opened.run(IDENTITIES)
    choose(opened, "#view", "best")
    assert inverse_negative_penalties(opened) == hardest[::-1]
    choose(opened, "#view", "random")
    assert sorted(inverse_negative_penalties(opened)) == hardest
    assert opened.run(IDENTITIES) != of_hardest


def test_lists_are_filtered_in_the_browser(opened, page):
    queries = page_data(page)["queries"]
    pictures = page_data(page)["pictures"]
    choose(opened, "#camera", "1")
    assert opened.run(f"{LINES}.length") == sum(pictures[line["picture"]]["camera"] == 1 for line in queries)
    opened.type("#identity", "3")
    assert opened.run(IDENTITIES) == ["identity 3"]
    opened.click("#reset")
    assert opened.run(f"new Promise((done) => setTimeout(() => done({LINES}.length)))") == 12
    opened.click("#wrong")
    wrong = [line for line in queries if line["first_hit"] != 1]
    assert 0 < len(wrong) < 12
    assert opened.run(f"{LINES}.length") == len(wrong)
    assert "12 queries in this view" in opened.run("document.querySelector('#count').textContent")
    opened.click("#wrong")
    opened.type("#text", 'ERROR="DOCUMENT.TITLE=1">4_1')
    found = opened.run(f"{LINES}.length")
    assert 0 < found <= 12
    opened.type("#text", "no such name")
    assert opened.run(f"{LINES}.length") == 0


def test_the_larger_view_is_worked_by_mouse_and_keys(opened):
    title = "document.querySelector('#viewer-title').textContent"
    opened.click("#lines .line:nth-child(2) .results li:nth-child(3) button")
    assert opened.run("document.querySelector('#viewer').open")
    assert opened.run(title).startswith("Query 2 of 12, rank 3 of ")
    opened.press("ArrowRight")
    assert "rank 4 of" in opened.run(title)
    opened.press("ArrowLeft")
    opened.press("ArrowLeft")
    assert "rank 2 of" in opened.run(title)
    opened.press("ArrowDown")
    assert opened.run(title).startswith("Query 3 of 12, rank 1 of ")
    opened.press("ArrowUp")
    opened.press("ArrowUp")
    opened.press("ArrowUp")  # there is nothing before the first
    assert opened.run(title).startswith("Query 1 of 12, rank 1 of ")
    opened.click("#next")
    assert "rank 2 of" in opened.run(title)
    painted = """[...document.querySelectorAll('#viewer canvas')].map((canvas) => {
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', {willReadFrequently: true});
        copy.drawImage(canvas, 0, 0);
        return new Set(copy.getImageData(0, 0, canvas.width, canvas.height).data).size;
    })"""
    assert min(opened.run(painted)) > 3
    assert len(opened.run(painted)) == 2 * (3 + 4)
    opened.press("Escape")
    assert not opened.run("document.querySelector('#viewer').open")
    opener = "document.querySelector('#lines .line:nth-child(2) .results li:nth-child(3) button')"
    assert opened.run(f"document.activeElement === {opener}")


def test_hostile_names_are_text_in_the_browser(opened):
    opened.click("#lines .line .results button")
    assert HOSTILE_NAME in opened.run("document.querySelector('#left').textContent")
    assert HOSTILE_COLOUR in opened.run("document.body.innerText")
    assert "run & <i>" in opened.run("document.title")
    assert opened.run("document.scripts.length") == 2
    assert opened.run("document.querySelectorAll('[onerror], main i').length") == 0


# Smallest rendered text, and the worst contrast of text with what is behind it (WCAG 2.2, 1.4.3).
READABLE = """(() => {
  const luminance = (rgb) => rgb.map((value) => value / 255)
    .map((value) => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4)
    .reduce((sum, value, channel) => sum + value * [.2126, .7152, .0722][channel], 0);
  const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
  let size = Infinity, contrast = Infinity;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest('script, button:disabled, title')) continue;
    const style = getComputedStyle(element);
    const drawing = element.closest('svg');
    const scale = drawing ? element.getScreenCTM().a : 1;
    size = Math.min(size, parseFloat(style.fontSize) * scale);
    let behind = element, ground = [255, 255, 255];
    while (behind) {
      const found = numbers(getComputedStyle(behind).backgroundColor);
      if (found.length === 3 || found[3] === 1) { ground = found.slice(0, 3); break; }
      behind = behind.parentElement;
    }
    const ink = numbers(drawing ? style.fill : style.color).slice(0, 3);
    const [dark, light] = [luminance(ink), luminance(ground)].sort((a, b) => a - b);
    contrast = Math.min(contrast, (light + .05) / (dark + .05));
  }
  return [size, contrast];
})()"""


@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_is_readable_at_any_width(opened, width):
    opened.resize(width)
    for _ in range(2):
        size, contrast = opened.run(READABLE)
        assert size >= 12
        assert contrast >= 4.5
        assert opened.run("document.documentElement.scrollWidth") <= width
        opened.click("#lines .line .results button")  # then with the larger view
    assert opened.run(
        "document.querySelector('#viewer').scrollWidth <= document.querySelector('#viewer').clientWidth"
    )
    assert opened.run("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert opened.run("[...document.images].every((image) => image.alt || image.closest('[role=img]'))")
