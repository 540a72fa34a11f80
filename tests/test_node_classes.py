"""Nodes whose class lists differ teach each other; classes are matched by name."""

import time

import numpy as np
import pytest
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.packet import LogitPacket, SamplePacket
from meshlore.knowledge.sources import load, save_npz
from meshlore.knowledge.space import Space
from meshlore.node.tasks import Classify, Evaluate, Generate
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials, Keyring, MeshRoot
from village import Village, packets_of, settled, submit

FOUNDING = Space((1, 8, 8), ("0", "1"), levels=17)
OWN = {"ann": ("0", "1"), "ben": ("1", "seven", "0"), "cid": ("four", "seven", "1")}
DIGIT = {"0": 0, "1": 1, "four": 4, "seven": 7}


def digits(classes, part="digits", most=160) -> Dataset:
    """Real digits under these names, in this order, as a user has them who knows nothing of the mesh."""
    source = load(part).dataset
    space = Space((1, 8, 8), tuple(classes), levels=17)
    images, labels = [], []
    for label, name in enumerate(classes):
        chosen = source.images[source.labels == DIGIT[name]][: most // len(classes)]
        images.append(chosen)
        labels += [label] * len(chosen)
    return Dataset(space, np.concatenate(images), np.array(labels))


def found(folder, **members) -> dict[str, Credentials]:
    root, charter = MeshRoot.create("village", FOUNDING.to_map(), time.time())
    keyring, credentials = Keyring.generate(), {}
    for name, classes in members.items():
        identity = Identity.generate()
        role = "node" if classes else "anchor"
        certificate = root.issue(identity.peer_id, name, [role, "requester"], identity.hpke_public_key, time.time())
        credentials[name] = Credentials(identity, charter, certificate, keyring)
        (folder / name).mkdir(mode=0o700)
        if classes:
            save_npz(folder / name / "data.npz", digits(classes))
    return credentials


def taught_by(node, *names):
    return packets_of(node, SamplePacket) >= set(names) and packets_of(node, LogitPacket) >= set(names)


def learned(node):
    """Whether all samples that it has of others have been taught, and then answers about them.

    Not all answers: those that come after the last refinement wait for new samples."""
    samples = {entry.name for entry in node.library.of_others() if isinstance(entry.packet, SamplePacket)}
    return samples <= set(node.state.journal.taught_by) and node.state.journal.refined > 0


async def test_classes_that_only_some_know_reach_everybody_by_name(tmp_path):
    village = Village(tmp_path, found(tmp_path, **OWN))
    ann = await village.start("ann")
    ben = await village.start("ben", "ann")
    await settled(ann, ben, when=lambda: taught_by(ann, "ben") and taught_by(ben, "ann"))
    assert ann.space.classes == ("0", "1", "seven")
    assert ben.space.classes == ("0", "1", "seven")

    # a node that joins later brings a class that nobody has
    cid = await village.start("cid", "ann")
    everybody = (ann, ben, cid)
    await settled(
        *everybody, when=lambda: taught_by(ann, "cid") and taught_by(cid, "ann", "ben") and all(map(learned, everybody))
    )
    assert cid.space.classes[:2] == ("0", "1")
    assert all(set(node.space.classes) == {"0", "1", "four", "seven"} for node in everybody)
    assert len({node.space.id for node in everybody}) == 1

    for node in everybody:
        test = digits(node.space.classes, "digits:test", 120)
        result = await submit(node, Evaluate(test.images, test.labels, where="here"))
        assert result.balanced > 0.75, (node.settings.name, result)
    fours = digits(("four", "0"), "digits:test", 40)
    result = await submit(ann, Classify(fours.images[:20], where="cid"))
    assert result.labels.count("four") > 15
    drawn = await submit(ann, Generate("four", 4, where="cid"))
    assert drawn.images.shape == (4, 1, 8, 8)
    await village.stop()


async def test_classes_learned_from_others_and_added_to_the_own_data_outlast_restarts(tmp_path):
    village = Village(tmp_path, found(tmp_path, ann=("0", "1"), ben=("1", "seven")))
    ann = await village.start("ann")
    ben = await village.start("ben", "ann")
    await settled(ann, ben, when=lambda: taught_by(ann, "ben") and taught_by(ben, "ann"))
    before = ann.competence
    await village.stop("ann", "ben")

    ann = await village.start("ann")
    assert ann.space.classes == ("0", "1", "seven")
    assert ann.competence.classify == pytest.approx(before.classify, abs=0.006)
    sevens = digits(("seven", "1"), "digits:test", 40)
    result = await submit(ann, Classify(sevens.images[:20], where="here"))
    assert result.labels.count("seven") > 15

    save_npz(tmp_path / "ben" / "data.npz", digits(("1", "seven", "four")))
    ben = await village.start("ben", "ann")
    await settled(ann, ben, when=lambda: "four" in ann.space.classes and learned(ann) and learned(ben))
    assert ben.space.classes == ann.space.classes == ("0", "1", "seven", "four")
    fours = digits(("four", "0"), "digits:test", 40)
    for node in (ann, ben):
        result = await submit(node, Classify(fours.images[:20], where="here"))
        assert result.labels.count("four") > 12, node.settings.name
    await village.stop()
