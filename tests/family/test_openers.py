"""No way of opening a compressed model gives wrong numbers: it works, or one sentence says what the model needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

import flowrank
from flowrank import Budget, FlowrankError, InputSVD, JointHeads, WholeModel
from flowrank.nn.config import SENTENCE

SMALL = {"calibration_series": 24, "calibration_points": 64}
SERIES = torch.sin(torch.arange(60.0) / 3)
VERSION_0_1 = Path(__file__).parent / "version_0_1"

LOADERS = """
import json, sys, warnings
warnings.simplefilter("ignore")
{first}
import torch
from chronos import BaseChronosPipeline, ChronosBoltPipeline, ChronosPipeline
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, T5ForConditionalGeneration
torch.set_num_threads(1)
series = torch.sin(torch.arange(60.0) / 3)
loaders = {{
    "BaseChronosPipeline": BaseChronosPipeline.from_pretrained,
    "ChronosBoltPipeline": ChronosBoltPipeline.from_pretrained,
    "ChronosPipeline": ChronosPipeline.from_pretrained,
    "AutoConfig": AutoConfig.from_pretrained,
    "AutoModel": AutoModel.from_pretrained,
    "AutoModelForSeq2SeqLM": AutoModelForSeq2SeqLM.from_pretrained,
    "T5": T5ForConditionalGeneration.from_pretrained,
    "Bolt": ChronosBoltModelForForecasting.from_pretrained,
}}
found = {{}}
for folder in sys.argv[1:]:
    for name, load in loaders.items():
        try:
            opened = load(folder)
            answer = type(opened).__name__
            if hasattr(opened, "predict"):
                torch.manual_seed(0)
                opened.engine = "exact"
                answer = opened.predict(series, prediction_length=4).tolist()
        except Exception as error:
            answer = "refused: " + str(error)
        found[folder + " " + name] = answer
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def children(bolt_folder, t5_folder, tmp_path_factory):
    """Folders of children of each family and method, and what each forecasts."""
    place = tmp_path_factory.mktemp("children")
    made = {}
    for kind, folder in (("bolt", bolt_folder), ("t5", t5_folder)):
        parent = flowrank.load(folder)
        for method in (JointHeads(Budget(0.4)), InputSVD(Budget(0.4)), WholeModel(Budget(0.6), rounds=1)):
            child = flowrank.compress(parent, method, **SMALL)
            name = str(child.save_pretrained(place / f"{kind}-{type(method).__name__}"))
            torch.manual_seed(0)
            made[name] = child.predict(SERIES, prediction_length=4).tolist()
    return made


def opened(children, first=""):
    script = LOADERS.format(first=first)
    done = subprocess.run([sys.executable, "-c", script, *children], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_without_flowrank_every_loader_says_what_is_needed(children):
    for place, answer in opened(children).items():
        assert isinstance(answer, str), place
        assert SENTENCE in answer, (place, answer)


@pytest.mark.parametrize(
    "first",
    [
        "import flowrank",
        "import flowrank; from importlib.util import find_spec; find_spec('chronos'); find_spec('transformers')",
        "import chronos, flowrank",
        "import transformers, flowrank",
    ],
)
def test_with_flowrank_a_loader_works_or_says_so(children, first):
    for place, answer in opened(children, first).items():
        folder, loader = place.split(" ")
        bolt = "bolt-" in folder
        if loader == "BaseChronosPipeline":
            assert answer == children[folder], place
        elif loader == "AutoConfig":
            assert answer == ("NarrowChronosBoltConfig" if bolt else "NarrowChronosT5Config")
        elif loader == "AutoModel" or (loader == "AutoModelForSeq2SeqLM" and not bolt):
            assert answer == ("NarrowChronosBolt" if bolt else "NarrowChronosT5")
        elif loader == "ChronosPipeline" and not bolt:
            assert torch.tensor(answer).shape == torch.tensor(children[folder]).shape  # the stock path draws otherwise
        else:
            assert isinstance(answer, str), place
            assert answer.startswith("refused: "), (place, answer)


def test_what_a_loader_opens_computes_the_child(children):
    folder = next(name for name in children if "t5-InputSVD" in name)
    tokens = {"input_ids": torch.arange(2, 12)[None], "decoder_input_ids": torch.arange(2, 7)[None]}
    with torch.no_grad():
        expected = flowrank.load(folder).inner_model(**tokens).logits
        found = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()(**tokens).logits
    assert torch.equal(found, expected)


def test_the_sentence_stands_where_stock_code_looks(children):
    for folder in children:
        raw = json.loads((Path(folder) / "config.json").read_text())
        assert raw["model_type"] == SENTENCE
        with pytest.raises(Exception, match="this model needs flowrank"):
            T5Config.from_pretrained(folder)
        with pytest.raises(Exception, match="this model needs flowrank"):
            T5ForConditionalGeneration.from_pretrained(folder)
        assert AutoConfig.from_pretrained(folder).feed_forward_proj == "relu"


@pytest.mark.parametrize("kind", ["bolt", "t5"])
def test_what_version_0_1_wrote_still_opens(kind, tmp_path):
    expected = load_file(VERSION_0_1 / kind / "expected.safetensors")
    pipeline = flowrank.load(VERSION_0_1 / kind)
    torch.manual_seed(0)
    forecast = pipeline.predict(expected["series"], prediction_length=8)
    scale = (
        expected["forecast"].abs().max()
    )  # of which chronos-forecasting's own code, too, misses some 3e-7 by rounding
    assert torch.allclose(forecast, expected["forecast"], rtol=0, atol=1e-6 * scale)
    assert pipeline.recipe["method"]["name"] == "WholeModel"
    again = flowrank.load(pipeline.save_pretrained(tmp_path / "today"))
    torch.manual_seed(0)
    assert torch.equal(again.predict(expected["series"], prediction_length=8), forecast)


def test_a_class_of_chronos_that_would_misread_it_is_refused():
    from chronos import ChronosBoltPipeline

    with pytest.raises(FlowrankError, match="BaseChronosPipeline"):
        ChronosBoltPipeline.from_pretrained(VERSION_0_1 / "bolt")


def test_a_config_of_a_later_version_is_refused(children, tmp_path):
    folder = Path(next(iter(children)))
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["flowrank"]["version"] = 99
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(FlowrankError, match="expected 1, found 99; pip install --upgrade flowrank"):
        flowrank.load(tmp_path)
