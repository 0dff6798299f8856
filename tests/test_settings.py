"""Settings: what is taken in from text and TOML, what is refused, and with which words."""

import dataclasses
import string
import tomllib

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from minigan.gan.recipes import NAMES, get_recipe
from minigan.gan.settings import Settings, SettingsError

SPECS = {spec.name: spec for spec in dataclasses.fields(Settings)}
KINDS = {kind: [name for name in SPECS if SPECS[name].type == kind] for kind in ("int", "float", "str", "bool")}


def values(spec):
    """Every value that a field may have."""
    rules = spec.metadata
    if rules["choices"]:
        return st.sampled_from(rules["choices"])
    if spec.type == "bool":
        return st.booleans()
    if spec.type == "str":  # what TOML can hold and a command line can give
        return st.text(st.characters(exclude_categories=["Cs", "Cc"])).map(str.strip)
    if spec.type == "int":
        return st.integers(int(rules["low"]), 2**62)
    return st.floats(rules["low"], min(rules["high"], 1e300), allow_nan=False)


@st.composite
def changes(draw):
    return {name: draw(values(SPECS[name])) for name in draw(st.sets(st.sampled_from(list(SPECS))))}


@given(changes(), st.sampled_from(NAMES))
def test_round_trip_through_toml_and_through_text(chosen, recipe):
    defaults = get_recipe(recipe).defaults
    settings = defaults.changed(chosen)
    for name in SPECS:
        assert getattr(settings, name) == chosen.get(name, getattr(defaults, name))
    stored = tomllib.loads(tomli_w.dumps(settings.to_dict()))
    assert defaults.changed(stored) == settings
    assert [type(value) for value in stored.values()] == [type(value) for value in settings.to_dict().values()]
    assert defaults.changed([f"{name}={value}" for name, value in chosen.items()]) == settings
    assert defaults.changed([f" {name.replace('_', '-')} = {value} " for name, value in chosen.items()]) == settings
    assert settings.differences(settings) == []
    assert len(defaults.differences(settings)) == sum(
        getattr(defaults, name) != value for name, value in chosen.items()
    )


def test_a_whole_number_stands_for_a_float_and_nothing_else_for_another_type():
    assert type(Settings().changed({"g_lr": 1}).g_lr) is float
    for kind, names in KINDS.items():
        for value in (1, 0.5, "text", True, None, [1], {}, b"1", 1j):
            fits = type(value).__name__ == kind or (kind == "float" and type(value) is int)
            for name in [] if fits else names:
                if isinstance(value, str) or (kind == "float" and value is True):
                    continue  # text is read; below
                with pytest.raises(SettingsError, match=rf"^{name}: got .*, expected "):
                    Settings().changed({name: value})
    with pytest.raises(SettingsError, match=r"g_lr: got True, expected a number ≥ 0 \(G's learning rate\)"):
        Settings().changed({"g_lr": True})


@pytest.mark.parametrize("text", ["", "1.5", "1e3", "ten", "nan", "0x10", "1 2", "--1", "²"])
def test_text_that_is_no_whole_number(text):
    with pytest.raises(SettingsError, match=r"batch: got .*, expected a whole number ≥ 1 \(samples in a batch\)"):
        Settings().changed([f"batch={text}"])


@pytest.mark.parametrize("text", ["", "ten", "nan", "inf", "-inf", "1e999", "1,5", "-0.1", "0.1.2", "True"])
def test_text_that_is_no_number(text):
    with pytest.raises(SettingsError, match=r"g_lr: got .*, expected a number ≥ 0"):
        Settings().changed([f"g_lr={text}"])


@pytest.mark.parametrize("text", ["", "2", "maybe", "tru", "None"])
def test_text_that_is_no_truth(text):
    with pytest.raises(SettingsError, match=r"flip: got .*, expected true or false"):
        Settings().changed([f"flip={text}"])


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("TRUE", True), ("1", True), ("off", False), ("No", False)])
def test_text_that_is_a_truth(text, value):
    assert Settings().changed([f"flip={text}"]).flip is value


@pytest.mark.parametrize("name", [*KINDS["int"], *KINDS["float"]])
def test_bounds(name):
    rules, kind = SPECS[name].metadata, int if SPECS[name].type == "int" else float
    assert rules["low"] >= 0, "no setting is meaningful below 0"
    Settings().changed({name: kind(rules["low"])})
    step = 1 if kind is int else 1e-9
    wrong = [kind(rules["low"]) - step, float("nan"), float("inf"), -float("inf")]
    if rules["high"] < float("inf"):
        Settings().changed({name: kind(rules["high"])})
        wrong.append(kind(rules["high"]) + step)
    for value in wrong:
        with pytest.raises(SettingsError, match=rf"^{name}: got "):
            Settings().changed({name: value})
        with pytest.raises(SettingsError):
            dataclasses.replace(Settings(), **{name: value})  # not by the back door either


def test_whole_numbers_end_where_tomls_do():
    assert Settings().changed({"seed": 2**63 - 1}).seed == 2**63 - 1
    with pytest.raises(SettingsError, match=r"seed: got 9\d*, expected a whole number ≥ 0 \(.*\), below 2⁶³"):
        Settings().changed({"seed": 2**63})


def test_names_that_do_not_exist():
    with pytest.raises(SettingsError, match="no setting 'n_critics'; did you mean 'n_critic'"):
        Settings().changed({"n_critics": 1})
    with pytest.raises(SettingsError, match="no setting 'zzz'; expected one of recipe, data, size"):
        Settings().changed(["zzz=1"])
    with pytest.raises(SettingsError, match="no setting '7'|no setting 7"):
        Settings().changed({7: 1})
    for text in ("batch", "", "batch:32"):
        with pytest.raises(SettingsError, match="expected name=value, as in batch=32"):
            Settings().changed([text])
    assert Settings().changed(["data=a=b"]).data == "a=b"


@given(st.text(string.ascii_lowercase + "-_", max_size=12))
def test_choices(text):
    for name, spec in SPECS.items():
        if spec.metadata["choices"] and text not in spec.metadata["choices"]:
            with pytest.raises(SettingsError, match=rf"{name}: got .*, expected one of "):
                Settings().changed({name: text})


def test_a_near_choice_is_named():
    with pytest.raises(SettingsError, match="loss: got 'hinged', expected one of .*; did you mean 'hinge'"):
        Settings().changed(["loss=hinged"])
    with pytest.raises(SettingsError, match=r"penalty: got 'gp', expected one of '' \(none\), wgan-gp"):
        Settings().changed(["penalty=gp"])


@pytest.mark.parametrize("recipe", NAMES)
def test_every_setting_has_one_line_of_meaning(recipe):
    for spec in dataclasses.fields(get_recipe(recipe).defaults):
        meaning = spec.metadata["meaning"]
        assert meaning, spec.name
        assert len(meaning) < 100, spec.name
        assert "\n" not in meaning, spec.name
        assert not meaning.endswith("."), spec.name


def test_settings_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().batch = 3
    assert hash(Settings()) == hash(Settings())


def test_differences_name_what_only_one_has():
    ring, gan = get_recipe("ring").defaults, get_recipe("gan").defaults
    lines = ring.differences(gan)
    assert "networks: quick → absent" in lines
    assert "units: absent → 240" in lines
