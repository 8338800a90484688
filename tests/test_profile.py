"""The profile: what is saved can be loaded, and everything else is refused in one line."""

import json
import os
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autodraft.cascade import Cascade, Chain, RoutedDraft, SelfDraft, StaticTree
from autodraft.errors import ProfileError
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.profile import DraftProfile, Interval, WeightsFile, _checksum, profile_schema

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def saved(profile: DraftProfile, tmp_path: Path) -> Path:
    profile.save(tmp_path / "deep" / "profile.json")
    return tmp_path / "deep" / "profile.json"


def edit(path: Path, change: Change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def refusal(path: Path) -> str:
    with pytest.raises(ProfileError) as caught:
        DraftProfile.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_saved_profile_loads_as_it_was(profile: DraftProfile, saved: Path) -> None:
    loaded = DraftProfile.load(saved)
    assert loaded == profile
    assert loaded.checksum == profile.checksum
    assert os.listdir(saved.parent) == ["profile.json"]


def test_a_profile_that_was_interrupted_before_it_measured_loads(profile: DraftProfile, tmp_path: Path) -> None:
    early = profile.model_copy(update={"measurement": None, "baselines": ()})
    early.save(tmp_path / "p.json")
    assert DraftProfile.load(tmp_path / "p.json") == early


def test_reformatting_is_no_tampering(profile: DraftProfile, saved: Path) -> None:
    text = json.dumps(json.loads(saved.read_text()), indent=None, sort_keys=True)
    saved.write_text(text.replace("160.0", "160").replace("0.4", "4e-1"))
    assert DraftProfile.load(saved) == profile


def test_the_published_schema_is_the_generated_one() -> None:
    committed = json.loads((files("autodraft") / "schemas" / "profile-v4.json").read_text())
    assert committed == profile_schema(), "run: autodraft profile schema > autodraft/schemas/profile-v4.json"


def test_weights_files_are_found_beside_the_profile_and_known_by_their_bytes(
    profile: DraftProfile, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "draft.safetensors").write_bytes(b"some tensors")
    weights = WeightsFile.of(folder / "weights" / "draft.safetensors", folder)
    assert weights.file == "weights/draft.safetensors"
    draft = SelfDraft(policy=DraftPolicy.uniform(2, 8), weights=weights)
    cascade = Cascade(drafts=(profile.cascade.drafts[0], draft))
    profile.model_copy(update={"cascade": cascade}).save(folder / "p.json")

    def of_the_draft() -> WeightsFile:
        loaded = DraftProfile.load(folder / "p.json").cascade.drafts[1]
        assert isinstance(loaded, SelfDraft) and loaded == draft and loaded.weights is not None
        return loaded.weights

    folder = folder.rename(tmp_path / "elsewhere")
    assert of_the_draft().verified_path().read_bytes() == b"some tensors"
    (folder / "weights" / "draft.safetensors").write_bytes(b"others")
    with pytest.raises(ProfileError, match="checksum differs"):
        of_the_draft().verified_path()
    (folder / "weights" / "draft.safetensors").unlink()
    with pytest.raises(ProfileError, match="cannot read"):
        of_the_draft().verified_path()


def test_a_routers_file_is_found_beside_the_profile(profile: DraftProfile, tmp_path: Path) -> None:
    (tmp_path / "router.safetensors").write_bytes(b"some tensors")
    draft = RoutedDraft(router=WeightsFile.of(tmp_path / "router.safetensors", tmp_path), passed_keys="projected")
    cascade = Cascade(drafts=(profile.cascade.drafts[0], draft))
    profile.model_copy(update={"cascade": cascade}).save(tmp_path / "p.json")
    loaded = DraftProfile.load(tmp_path / "p.json").cascade.drafts[1]
    assert isinstance(loaded, RoutedDraft) and loaded == draft
    assert loaded.router.verified_path() == tmp_path / "router.safetensors"


@pytest.mark.parametrize("file", ["/etc/passwd", "../other.safetensors", "a/../../b", "", "."])
def test_weights_files_lie_within_the_profiles_folder(file: str) -> None:
    with pytest.raises(ValidationError):
        WeightsFile(file=file, sha256="0" * 64)


def test_version_2_is_read(saved: Path) -> None:
    document = json.loads(saved.read_text())
    document["schema_version"] = 2
    for draft in document["cascade"]["drafts"]:
        draft.pop("weights", None)
    del document["checksum"]
    saved.write_text(json.dumps({**document, "checksum": _checksum(document)}))
    current = DraftProfile.load(saved)
    assert current.schema_version == 4 and current.cascade.drafts[1].weights is None  # type: ignore[union-attr]


def test_version_1_is_read_and_its_trees_become_a_scheduler(saved: Path) -> None:
    current = DraftProfile.load(saved)
    for branching, expected in ((1, Chain()), (3, StaticTree(branching=3, max_nodes=12))):
        document = json.loads(saved.read_text())
        document["schema_version"] = 1
        for draft in document["cascade"]["drafts"]:
            if draft["kind"] == "self-draft":
                draft.update(branching=branching, max_nodes=12)
        del document["cascade"]["scheduler"], document["checksum"]
        path = saved.with_name("old.json")
        path.write_text(json.dumps({**document, "checksum": _checksum(document)}))
        old = DraftProfile.load(path)
        assert old.cascade == current.cascade.model_copy(update={"scheduler": expected})


def test_a_saved_profile_is_valid_under_the_schema(saved: Path) -> None:
    schema = profile_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document = json.loads(saved.read_text())
    validator.validate(document)
    document["target"]["colour"] = "blue"
    assert not validator.is_valid(document)


def block(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["cascade"]["drafts"][1]["policy"]["blocks"][0]
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(kind="something-else"), "no draft profile"),
        (lambda d: d.pop("kind"), "no draft profile"),
        (lambda d: d.update(schema_version=5), "schema version 5, this autodraft reads up to 4; upgrade"),
        (lambda d: d.update(schema_version="1"), "schema_version: "),
        (lambda d: d.update(colour="blue"), "colour: unknown field"),
        (lambda d: d["target"].update(colour="blue"), "target.colour: unknown field"),
        (lambda d: d["target"].update(widen="four"), "target.widen: "),
        (lambda d: d["target"].update(widen=1.5), "target.widen: "),
        (lambda d: d["provenance"].pop("seed"), "provenance.seed: Field required"),
        (lambda d: d["measurement"]["tasks"][0].update(tokens_per_s=None), "measurement.tasks[0].tokens_per_s: "),
        (lambda d: d["measurement"].update(fidelity="predicted"), "measurement.fidelity: "),
        (lambda d: d["measurement"]["speedup"].update(ci_low=2.0), "measurement.speedup: the interval"),
        (lambda d: d["priors"]["drafts"][0].update(alpha=1.1), "priors.drafts[0].alpha: "),
        (lambda d: d["priors"]["drafts"].pop(), "priors.drafts has 1 entries for 2 drafts"),
        (lambda d: d["cascade"]["drafts"][1].update(kind="eagle"), "cascade.drafts[1]: "),
        (lambda d: d["cascade"].update(drafts=[]), 'conclusion is "speculate", but the cascade has 0 drafts'),
        (lambda d: d.update(conclusion="autoregressive"), 'conclusion is "autoregressive", but the cascade has 2'),
        (lambda d: block(d)["mlp"].update({"4": 0.5}), "cascade.drafts[1].policy: channel shares"),
        (lambda d: block(d)["mlp"].update({"8": 0.3}), "is not a whole number of sixteenths"),
        (lambda d: block(d)["mlp"].update({"2": 0.5}), "unknown bit-width '2'"),
        (lambda d: d.pop("checksum"), "does not match its checksum"),
        (lambda d: d.update(checksum="0" * 64), "does not match its checksum"),
        (lambda d: d["measurement"]["speedup"].update(median=1.74), "does not match its checksum"),
        (lambda d: block(d)["mlp"].update({"8": 0.5}), "does not match its checksum"),
    ],
)
def test_a_changed_profile_is_refused(saved: Path, change: Change, message: str) -> None:
    edit(saved, change)
    assert message in refusal(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a JSON file"),
        ("{", "not a JSON file"),
        ('{"kind": NaN}', "not a JSON file"),
        ("[1]", "a draft profile is a JSON object, not a list"),
        ('{"model": "llama"}', "no draft profile"),
        ("[" * 100_000, "not a JSON file"),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    assert message in refusal(path)


def test_missing_and_unreadable_files_are_refused(tmp_path: Path, profile: DraftProfile) -> None:
    assert "no such profile" in refusal(tmp_path / "none.json")
    assert "cannot read" in refusal(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    assert "not a JSON file" in refusal(tmp_path / "binary.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(ProfileError, match="cannot write"):
        profile.save(tmp_path / "file" / "profile.json")


def test_saving_over_a_profile_leaves_the_old_one_when_it_fails(
    profile: DraftProfile, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_text()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ProfileError, match="No space left"):
        profile.model_copy(update={"predicted": None}).save(saved)
    assert saved.read_text() == before
    assert os.listdir(saved.parent) == ["profile.json"]


def test_another_model_is_refused(profile: DraftProfile) -> None:
    fingerprint = {"config": "a" * 64, "weights": "b" * 64}
    profile.check_target(fingerprint, num_blocks=2, num_kv_heads=2)
    profile.check_target(fingerprint, 2, 2, widen=1)
    with pytest.raises(ProfileError, match="made for tiny, not for this model: weights differ"):
        profile.check_target(fingerprint | {"weights": "c" * 64}, 2, 2)
    with pytest.raises(ProfileError, match="config and weights differ"):
        profile.check_target({}, 2, 2)
    with pytest.raises(ProfileError, match="the policy has 2 blocks, the model has 3"):
        profile.check_target(fingerprint, 3, 2)
    with pytest.raises(ProfileError, match="widen 1, the model is loaded with widen 4"):
        profile.check_target(fingerprint, 2, 8, widen=4)


def test_shares_that_do_not_fit_the_heads_are_refused(profile: DraftProfile) -> None:
    half = DraftPolicy.uniform(2).replace({0: ChannelShares(full=8)})
    one = profile.model_copy(update={"cascade": Cascade(drafts=(SelfDraft(policy=half),))})
    fingerprint = profile.target.fingerprint.model_dump()
    one.check_target(fingerprint, 2, num_kv_heads=2)
    with pytest.raises(ProfileError, match="no whole number of heads"):
        one.check_target(fingerprint, 2, num_kv_heads=1)


def test_another_device_is_a_warning_that_offers_to_measure(profile: DraftProfile) -> None:
    here = profile.device
    assert profile.device_mismatch(here) is None
    assert profile.device_mismatch(here.model_copy(update={"versions": {"torch": "9.9"}})) is None
    warning = profile.device_mismatch(here.model_copy(update={"threads": 8, "name": "another processor"}))
    assert warning is not None
    assert "name a processor there and another processor here, threads 2 there and 8 here" in warning
    assert "`autodraft bench`" in warning


def test_an_autoregressive_profile_keeps_what_it_rejected(profile: DraftProfile, tmp_path: Path) -> None:
    document = json.loads(profile.model_dump_json(exclude={"checksum"}))
    document.update(conclusion="autoregressive", rejected=document["cascade"], cascade={"drafts": []})
    other = DraftProfile.model_validate(document)
    other.save(tmp_path / "p.json")
    loaded = DraftProfile.load(tmp_path / "p.json")
    assert loaded.cascade.is_autoregressive
    assert loaded.rejected == profile.cascade


def test_an_unbounded_interval_is_written_as_null() -> None:
    interval = Interval(median=1.0, ci_low=0.0, ci_high=float("inf"))
    assert Interval.model_validate_json(interval.model_dump_json()) == interval
    assert interval.ci_high is None


sixteenths = st.tuples(st.integers(0, 16), st.integers(0, 16), st.integers(0, 16)).filter(lambda each: sum(each) <= 16)


@given(st.lists(sixteenths, min_size=4, max_size=4), st.sampled_from([4, 8, 16]))
def test_any_policy_survives_the_file(shares: list[tuple[int, int, int]], head_bits: int) -> None:
    policy = DraftPolicy.from_sub_layers([ChannelShares(*each) for each in shares], head_bits)
    cascade = Cascade(drafts=(SelfDraft(policy=policy),))
    assert Cascade.model_validate_json(cascade.model_dump_json(), strict=True) == cascade
