"""Random answers that a constraint allows."""

import random


def wander(constraint, seed):
    """A random answer: at each step any allowed token, each as likely as the other."""
    chance = random.Random(seed)
    written = []
    while constraint.state is not None:
        token = chance.choice(constraint.allowed())
        constraint.advance(token)
        written.append(token)
    return written


def spelled(grammar, tokens):
    return b"".join(grammar.vocabulary.bytes.get(token, b"") for token in tokens).decode()
