"""Many names in little memory."""

import pickle

import pytest

from basicsr_ext.data.names import Names, Stems

WORDS = ["a/b.png", "", "Bäume/ä.v2.jpg", "\udcff.png"]  # the last one is not UTF-8 on the disk


def test_names_are_a_sequence_of_texts():
    names = Names.of(WORDS)
    assert list(names) == [names[index] for index in range(4)] == WORDS
    assert names[-1] == WORDS[-1]
    assert list(names[1:3]) == WORDS[1:3]
    assert list(names.take([2, 0])) == [WORDS[2], WORDS[0]]
    assert names == WORDS
    assert names != WORDS[:3]
    assert names != [*WORDS[:3], "b"]
    assert pickle.loads(pickle.dumps(names)) == names
    with pytest.raises(IndexError):
        names[4]
    assert not Names.of(())


def test_stems_lack_the_suffix_alone():
    stems = Stems(Names.of(WORDS))
    assert list(stems) == [stems[index] for index in range(4)] == ["a/b", "", "Bäume/ä.v2", "\udcff"]
    assert list(stems[2:]) == ["Bäume/ä.v2", "\udcff"]
