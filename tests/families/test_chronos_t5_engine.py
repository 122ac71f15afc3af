from __future__ import annotations

import pytest
import torch
from chronos import BaseChronosPipeline
from scipy.stats import chisquare
from torch import nn
from transformers import T5ForConditionalGeneration

import flowrank
from flowrank import Budget, FlowrankError, JointHeads, Uniform, WeightSVD
from flowrank.benchmarking import peak_memory
from flowrank.engine.sampling import Sampling
from flowrank.families.chronos_t5.engine import T5Engine
from flowrank.families.chronos_t5.pipeline import FlowrankT5Pipeline
from flowrank.family import pad_left
from tests.conftest import T5_TOKENS, make_t5, relative_gap, small_mlps, tiny_config, with_own_widths
from tests.layers import mlp_layers

STEPS = 12


@pytest.fixture
def series():
    """Short, long, padded and NaN-holed series, two of them of one length, one without a value."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(n, generator=generator).cumsum(0) for n in (64, 50, 33, 17, 33, 1, 90, 20)]
    drawn[1][10:20] = torch.nan
    drawn[4][[0, 5, 31]] = torch.nan
    drawn[7][:] = torch.nan
    return drawn


def random_t5(**changes):
    """A tiny model whose logits differ from token to token."""
    torch.manual_seed(0)
    chronos_config = {**T5_TOKENS, **changes.pop("chronos_config", {})}
    model = T5ForConditionalGeneration(tiny_config(chronos_config, "ChronosPipeline", **changes))
    for stack in (model.encoder, model.decoder):
        bias = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        torch.nn.init.normal_(bias, std=1.0)
    return FlowrankT5Pipeline.around(model.eval())


def compressed(method):
    return flowrank.compress(random_t5(), method, calibration_series=8, calibration_points=64)


def with_small_parts(ranks=None, **changes):
    model = random_t5(**changes).inner_model
    return FlowrankT5Pipeline.around(with_own_widths(model, mlp=small_mlps(model), vocabulary=ranks))


def without_neurons():
    model = random_t5().inner_model
    shapes = {key: {"width": 0} for key in mlp_layers(model)}
    return FlowrankT5Pipeline.around(with_own_widths(model, mlp=shapes))


MODELS = {
    "dense": random_t5,
    "own output matrix": lambda: random_t5(tie_word_embeddings=False),
    "gated": lambda: random_t5(feed_forward_proj="gated-gelu"),
    "without end token": lambda: random_t5(chronos_config={"use_eos_token": False}),
    "unequal depths": lambda: random_t5(num_layers=1, num_decoder_layers=3),
    "equal heads": lambda: compressed(JointHeads(Uniform(0.4))),
    "unequal heads": lambda: compressed(JointHeads(Budget(0.25), per_head=True)),
    "heads that are gone": lambda: compressed(JointHeads(Budget(0.03), per_head=True)),
    "factors": lambda: compressed(WeightSVD(Uniform(0.4))),
    "small feed-forward layers": with_small_parts,
    "small gated feed-forward layers": lambda: with_small_parts(feed_forward_proj="gated-gelu", num_layers=4),
    "factored head": lambda: with_small_parts({"head": 3}),
    "factored embedding": lambda: with_small_parts({"embedding": 5}),
    "factored vocabulary": lambda: with_small_parts({"head": 3, "embedding": 5}),
    "no neurons": without_neurons,
}


@pytest.mark.parametrize("cross_cache", ["keys", "latent"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_logits_are_the_stock_models_at_every_step(make, cross_cache, series):
    pipeline = make()
    assert pipeline.path == "exact"
    if not pipeline.model.config.use_eos_token:
        series = series[:-1]  # nothing to look at
    model = pipeline.inner_model
    tokens, mask, _ = pipeline.tokenizer.context_input_transform(pad_left(series, torch.device("cpu")))
    forced = torch.randint(2, 60, (len(series), STEPS - 1), generator=torch.Generator().manual_seed(1))
    start = torch.zeros(len(series), 1, dtype=torch.long)
    with torch.no_grad():
        expected = model(
            input_ids=tokens, attention_mask=mask, decoder_input_ids=torch.cat([start, forced], dim=1)
        ).logits
        decoder = T5Engine(model).decoder(tokens, mask, paths=1, steps=STEPS, cross_cache=cross_cache)
        found = [decoder.first(start[:, 0]), *(decoder.next(column) for column in forced.T)]
    for step, logits in enumerate(found):
        assert relative_gap(logits, expected[:, step]) <= 1e-5, step


@pytest.mark.parametrize("cross_cache", ["keys", "latent"])
def test_paths_of_a_series_go_their_own_ways(cross_cache, series):
    pipeline = random_t5()
    model = pipeline.inner_model
    tokens, mask, _ = pipeline.tokenizer.context_input_transform(pad_left(series, torch.device("cpu")))
    forced = torch.randint(2, 60, (len(series), 3, 4), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        decoder = T5Engine(model).decoder(tokens, mask, paths=3, steps=5, cross_cache=cross_cache)
        decoder.first(torch.zeros(len(series), dtype=torch.long))
        for step in range(4):
            found = decoder.next(forced[:, :, step].flatten())
        for path in range(3):
            history = torch.cat([torch.zeros(len(series), 1, dtype=torch.long), forced[:, path]], dim=1)
            expected = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=history).logits[:, -1]
            assert relative_gap(found.view(len(series), 3, -1)[:, path], expected) <= 1e-5


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6, "top_k": 7}, {"top_k": 0, "top_p": 0.8}], ids=str)
def test_marginals_are_those_of_the_stock_softmax(settings, series):
    """20 000 first and second tokens of a series against probabilities from transformers' own processors."""
    from tests.engine.test_sampling import transformers_probabilities

    pipeline = random_t5(num_layers=1, num_decoder_layers=1)
    chosen = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, **settings}
    model, context = pipeline.inner_model, series[2]
    tokens, mask, _ = pipeline.tokenizer.context_input_transform(context[None])
    drawn = T5Engine(model).sample(
        tokens, mask, steps=2, paths=20_000, sampling=Sampling(**chosen, forbidden=1), keys=[0]
    )[0]

    def expected(history):
        with torch.no_grad():
            logits = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=history).logits[:, -1]
        return transformers_probabilities(logits, **chosen, forbidden=1)[0].double()

    start = torch.zeros(1, 1, dtype=torch.long)
    first = expected(start)
    second = torch.zeros_like(first)
    for token in first.nonzero().flatten():
        second += first[token] * expected(torch.cat([start, token.view(1, 1)], dim=1))
    for probabilities, column in ((first, drawn[:, 0]), (second, drawn[:, 1])):
        counts = column.bincount(minlength=len(probabilities)).double()
        assert not counts[probabilities == 0].any()
        often = probabilities * 20_000 >= 5
        rare = torch.stack([counts[~often].sum(), 20_000 * probabilities[~often].sum()])
        observed, wanted = (
            torch.cat([counts[often], rare[:1]]),
            torch.cat([20_000 * probabilities[often], rare[1:]]),
        )
        keep = wanted > 0
        assert chisquare(observed[keep], wanted[keep] * observed.sum() / wanted.sum()).pvalue > 0.01 / 6


def test_forecasts_do_not_depend_on_batches_chunks_or_padding(series):
    pipeline = random_t5()

    def predict(some, **options):
        torch.manual_seed(5)
        return pipeline.predict(some, prediction_length=20, num_samples=6, **options)

    together = predict(series)
    for number in range(len(series)):
        torch.testing.assert_close(predict(series[number : number + 1])[0], together[number])
    torch.testing.assert_close(predict(series[::-1]).flip(0), together)
    pipeline.memory_budget = 1
    torch.testing.assert_close(predict(series), together)


def test_a_latent_cache_is_held_once_for_all_layers(series):
    pipeline = random_t5(num_decoder_layers=3)
    model = pipeline.inner_model
    tokens, mask, _ = pipeline.tokenizer.context_input_transform(pad_left(series, torch.device("cpu")))
    held = {}
    with torch.no_grad():
        for choice in ("keys", "latent"):
            decoder = T5Engine(model).decoder(tokens, mask, paths=2, steps=2, cross_cache=choice)
            storages = {t.data_ptr(): t.nbytes for cache in decoder.cross for t in cache.tensors}
            held[choice] = sum(storages.values())
    assert held["keys"] == held["latent"] * 3 * 36 // 24
    pipeline.inference.cross_cache = "latent"
    found = pipeline.predict(series, top_k=1)
    pipeline.inference.cross_cache = "keys"
    torch.testing.assert_close(pipeline.predict(series, top_k=1), found)
    with pytest.raises(FlowrankError, match="cross_cache: expected one of auto, keys, latent"):
        pipeline.inference.cross_cache = "none"


def test_a_run_repeats_under_its_seed_only(series):
    pipeline = random_t5()
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(pipeline.predict(series))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert not torch.equal(pipeline.predict(series), pipeline.predict(series))


def test_far_horizons_go_on_from_the_median_as_stock_chronos_does(series):
    """Top-k of one token leaves no chance: both code paths must give the same values, block after block."""
    exact = random_t5()
    stock = FlowrankT5Pipeline.around(exact.inner_model)
    stock.engine = "stock"
    found, expected = (p.predict(series, prediction_length=40, num_samples=2, top_k=1) for p in (exact, stock))
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="limit_prediction_length"):
        exact.predict(series, prediction_length=40, limit_prediction_length=True)


def test_a_changed_weight_changes_the_forecast(series):
    pipeline = random_t5()
    before = pipeline.predict(series, top_k=1)
    pipeline.inner_model.decoder.block[0].layer[0].SelfAttention.v.weight.data.normal_()
    pipeline.inner_model.encoder.block[1].layer[0].SelfAttention.q.weight.data.normal_()
    stock = FlowrankT5Pipeline.around(pipeline.inner_model)
    stock.engine = "stock"
    after = pipeline.predict(series, top_k=1)
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, stock.predict(series, top_k=1))


def test_half_precision_is_as_close_as_the_stock_models():
    pipeline = random_t5()
    series = list(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))
    tokens, mask, _ = pipeline.tokenizer.context_input_transform(pad_left(series, torch.device("cpu")))
    start = torch.zeros(len(series), 1, dtype=torch.long)
    inputs = {"input_ids": tokens, "attention_mask": mask, "decoder_input_ids": start}
    with torch.no_grad():
        expected = pipeline.inner_model(**inputs).logits[:, 0]
        half = pipeline.inner_model.to(torch.bfloat16)
        stock = half(**inputs).logits[:, 0]
        found = T5Engine(half).decoder(tokens, mask, paths=1, steps=1).first(start[:, 0])
    assert found.dtype == torch.bfloat16
    errors = [float((one.float() - expected).square().mean()) for one in (found, stock)]
    assert 0 < errors[0] < 1.2 * errors[1]  # the largest error is a matter of luck, and of the processor
    assert pipeline.path == "exact"
    assert torch.isfinite(pipeline.predict(series)).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.train(),
        lambda model: model.half(),
        lambda model: setattr(model.generation_config, "repetition_penalty", 5.0),
        lambda model: setattr(model.generation_config, "num_beams", 4),
        lambda model: model.encoder.register_forward_hook(lambda *_: None),
        lambda model: setattr(model, "lm_head", nn.Linear(24, 64)),
        lambda model: nn.utils.parametrizations.weight_norm(model.decoder.block[0].layer[1].EncDecAttention.q),
    ],
)
def test_what_the_engine_does_not_know_goes_the_stock_way(change, series):
    pipeline = random_t5()
    change(pipeline.inner_model)
    assert pipeline.path == "stock"
    assert pipeline.engine == "exact"
    assert pipeline.predict(series[:2], num_samples=3).shape == (2, 3, 16)


def test_the_start_token_is_that_of_generation(series):
    exact = random_t5()
    exact.inner_model.generation_config.decoder_start_token_id = 7
    stock = FlowrankT5Pipeline.around(exact.inner_model)
    stock.engine = "stock"
    assert exact.path == "exact"
    torch.testing.assert_close(exact.predict(series, top_k=1), stock.predict(series, top_k=1))


def test_batches_on_the_stock_path_have_noise_of_their_own(t5_folder):
    """The same series in two batches: equal under the exact engine, which draws by series, and not otherwise."""
    series = [torch.arange(20.0).numpy()] * 2
    for engine, equal in (("exact", True), ("stock", False)):
        pipeline = flowrank.load(t5_folder, engine=engine)
        frame = flowrank.forecast(pipeline, series, horizon=4, batch_size=1)
        first, second = frame["predictions"].to_numpy().reshape(2, 4)
        assert (first == second).all() == equal


@pytest.mark.parametrize("options", [{}, {"num_samples": 1}, {"top_k": 0, "top_p": 0.9}], ids=str)
@pytest.mark.parametrize("length", [12, 500])
def test_the_memory_budget_is_kept(options, length):
    pipeline = random_t5(chronos_config={"context_length": 512}, d_model=64, d_kv=16, d_ff=128, num_heads=4)
    pipeline.memory_budget = 8_000_000
    batch = torch.randn(60, length).cumsum(1)
    options = {"num_samples": 20, **options}
    fixed = 16 * pipeline.inner_model.config.num_heads * length**2 + 10 * batch.nbytes + 1_000_000
    pipeline.predict(batch, **options)  # the fastest products are found out once, and packed
    assert peak_memory(lambda: pipeline.predict(batch, **options)) <= pipeline.memory_budget + fixed


@pytest.mark.parametrize(
    ("name", "wrong"), [("engine", "fast"), ("memory_budget", 0), ("memory_budget", 1.5), ("memory_budget", "2GB")]
)
def test_an_engine_or_budget_that_is_none_is_refused(name, wrong, t5_folder):
    with pytest.raises(FlowrankError, match=name):
        flowrank.load(t5_folder, **{name: wrong})
    with pytest.raises(FlowrankError, match=name):
        setattr(random_t5(), name, wrong)


def test_num_samples_and_horizon_must_be_counts(series):
    for name, wrong in (("num_samples", 0), ("prediction_length", 0.5)):
        with pytest.raises(FlowrankError, match=f"^{name}: expected a whole number"):
            random_t5().predict(series, **{name: wrong})


def test_saved_and_opened_by_chronos_the_engine_is_the_same(tmp_path, series):
    child = compressed(JointHeads(Uniform(0.4)))
    child.save_pretrained(tmp_path / "child")
    opened = BaseChronosPipeline.from_pretrained(tmp_path / "child")
    assert opened.engine == "exact"
    torch.manual_seed(0)
    expected = child.predict(series)
    torch.manual_seed(0)
    assert torch.equal(opened.predict(series), expected)


def test_stock_weights_open_with_either_engine(tmp_path, series):
    folder = make_t5(tmp_path / "t5")
    exact, stock = flowrank.load(folder), flowrank.load(folder, engine="stock")
    torch.testing.assert_close(exact.predict(series, top_k=1), stock.predict(series, top_k=1))
