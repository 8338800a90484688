"""An agent on disk: zip files of stable-baselines3, and beside them a card (JSON) that says what they are.

Knows nothing of training. A zip of stable-baselines3 holds pickles, which can run code when they are loaded, so an
agent that is only used is never unpickled: its networks are built from the card, and only the tensors are read from the
zip. The card's checksums tell a damaged or exchanged file before that.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from stable_baselines3.common.base_class import BaseAlgorithm

from autodraft.envs import JointPolicyEnv
from autodraft.errors import InputError
from autodraft.policies.choices import Budgets, share_menu
from autodraft.policies.features import PolicyFeatures
from autodraft.policies.observation import Layout
from autodraft.policies.rollout import LearnedDecider
from autodraft.profile import first_problem, write_atomically
from autodraft.search.agents.algorithms import HIERARCHICAL, AgentSettings, chooser, make_agent
from autodraft.search.agents.hierarchical import ControllerPair
from autodraft.search.agents.inverted import InvertedEvaluator

AGENT_NAME = "agent.zip"
_ROLES = {"joint": "", "channels": "", "layers": "-layers"}


class _FilePart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[\w.-]+$", description="in the folder of the card")
    sha256: str


class AgentCard(BaseModel):
    """What a saved agent is: enough to build its networks, and to say where it came from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    algorithm: str
    settings: dict[str, Any]
    available_bits: tuple[int, ...] = Field(description="bit-widths of the device that it learnt on")
    channels: bool = Field(description="whether it may put channels of a sub-layer at different bits")
    protect_ends: bool
    sample_budget: bool = Field(description="whether it learnt for any budget, or for none")
    observation: tuple[str, ...] = Field(description="names of the figures that it sees")
    num_blocks: int = Field(description="of the model that it learnt on; others are allowed")
    trained_on: dict[str, str] = Field(description="identity of the evaluator")
    episodes: int
    seed: int
    versions: dict[str, str]
    files: dict[str, _FilePart]


def sidecar(path: Path) -> Path:
    """The card of an agent file."""
    return path.with_suffix(".json")


def save_agents(agents: Mapping[str, BaseAlgorithm], path: Path, facts: Mapping[str, Any]) -> None:
    """Write agents by role (joint, or layers and channels) and their card; `path` is `NAME.zip`."""
    files = {}
    for role, agent in agents.items():
        target = path.with_name(f"{path.stem}{_ROLES[role]}.zip")
        buffer = io.BytesIO()
        agent.save(buffer)
        target.write_bytes(buffer.getvalue())
        files[role] = _FilePart(name=target.name, sha256=hashlib.sha256(buffer.getvalue()).hexdigest())
    observation = seen_figures(facts["available_bits"], facts["channels"])
    card = AgentCard(files=files, observation=observation, **facts)
    write_atomically(sidecar(path), card.model_dump_json(indent=1) + "\n")


def read_card(path: Path) -> AgentCard:
    """The card of an agent whose files are all there and unchanged."""
    if not path.is_file():
        raise InputError(f"{path}: no such agent file; `autodraft train-controller` writes {AGENT_NAME}")
    if not sidecar(path).is_file():
        raise InputError(f"{path}: its card {sidecar(path).name} is missing, and without it the file is not opened")
    try:
        card = AgentCard.model_validate_json(sidecar(path).read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise InputError(f"{sidecar(path)}: not the card of an agent ({problem})") from error
    if path.name not in {part.name for part in card.files.values()}:
        raise InputError(f"{sidecar(path)} does not speak of {path.name}")
    for part in card.files.values():
        file = path.with_name(part.name)
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != part.sha256:
            raise InputError(f"{file}: not the file that its card speaks of (checksum); train the agent again")
    return card


def load_decider(path: Path, features: PolicyFeatures, budgets: Budgets) -> LearnedDecider:
    """A saved agent as "features in, policy out"."""
    card = read_card(path)
    if card.available_bits != features.available_bits:
        raise InputError(
            f"{path}: learnt with {_words(card.available_bits)} bits, this device offers"
            f" {_words(features.available_bits)}; train an agent here"
        )
    if card.observation != seen_figures(card.available_bits, card.channels):
        raise InputError(f"{path}: made by another version of autodraft, which saw other figures; train it again")
    agents = _empty_agents(card, features)
    if agents.keys() != card.files.keys():
        raise InputError(f"{sidecar(path)}: {card.algorithm} is not made of {', '.join(card.files)}")
    for role, part in card.files.items():
        _load_weights(agents[role], path.with_name(part.name))
    layers = agents.get("layers")
    return LearnedDecider(
        chooser(agents["channels"] if layers is not None else agents["joint"]),
        None if layers is None else chooser(layers),
        budgets,
        channels=card.channels,
        protect_ends=card.protect_ends,
    )


def seen_figures(available_bits: Sequence[int], channels: bool) -> tuple[str, ...]:
    """Names of what an agent with these choices sees."""
    return Layout(len(share_menu(available_bits, channels))).names


def _words(bits: tuple[int, ...]) -> str:
    return ", ".join(map(str, bits))


def _empty_agents(card: AgentCard, features: PolicyFeatures) -> Mapping[str, BaseAlgorithm]:
    """Agents with the card's architecture that have learnt nothing."""
    evaluator = InvertedEvaluator(features, lambda _: None)
    settings = AgentSettings.from_json(card.settings)
    arguments = {"channels": card.channels, "protect_ends": card.protect_ends}
    if card.algorithm == HIERARCHICAL:
        return ControllerPair(evaluator, settings, card.seed, **arguments).agents
    return {"joint": make_agent(card.algorithm, JointPolicyEnv(evaluator, **arguments), settings, card.seed)}


def _load_weights(agent: BaseAlgorithm, path: Path) -> None:
    """Tensors only: nothing of the file is executed."""
    try:
        with zipfile.ZipFile(path) as archive:
            state = torch.load(io.BytesIO(archive.read("policy.pth")), map_location="cpu", weights_only=True)
        agent.policy.load_state_dict(state)
    except (zipfile.BadZipFile, KeyError, RuntimeError, UnpicklingError) as error:
        raise InputError(f"{path}: not the networks that its card describes") from error
