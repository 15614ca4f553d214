"""Attributes that are replaced for a while are afterwards what they were, and where they were."""

from qwen_ner.training.batches.step import replace_attributes


class Owner:
    def __init__(self):
        self.own, self._kept = 1, 2

    def inherited(self):
        return 3

    @property
    def kept(self):
        return self._kept

    @kept.setter
    def kept(self, value):
        self._kept = value


def test_an_object_has_its_own_attributes_again_and_those_of_its_class_from_the_class():
    owner = Owner()
    with replace_attributes(owner, own=10, inherited=lambda: 30, kept=20):
        assert (owner.own, owner.inherited(), owner.kept) == (10, 30, 20)
    assert (owner.own, owner.inherited(), owner.kept) == (1, 3, 2)
    assert vars(owner) == {"own": 1, "_kept": 2}, "a copy would keep an attribute that hides the class's"
