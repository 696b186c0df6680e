"""Words that long contexts are made of, common ones, and how many tokens a text has, roughly.

No word is in two lists: what a question asks about is nowhere in the filling, and no filling is an answer.
"""

import re


def _listed(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(";"))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words(
    """
    amber black blue bold brave bright brown calm clean clear cold cool dark deep dry fair fast fine flat free fresh
    gold grand gray green happy heavy hot kind large light long loud lucky new old pale pink plain proud pure quick
    quiet rare red rich round sharp short silver simple small smooth soft strong sweet tall thin warm white wide
    wild wise young
    """
)
NOUNS = _words(
    """
    ant bear bee bird camel cat cow crab crow deer dog dove duck eagle elk fish fly fox frog goat goose hare hawk
    hen horse lamb lion mole moose moth mouse mule owl ox panda pig pony rabbit ram rat raven seal shark sheep snail
    snake spider swan tiger toad turtle wasp whale wolf worm
    """
)
VALUES = _words(
    """
    apple arrow basket bell bottle bread brush bucket button candle carpet chain clock coin crown cup desk drum
    feather flute fork glass glove hammer hat jacket jar knife ladder lamp lemon letter map mirror needle onion
    paper pencil pepper piano pillow plate ribbon ring rope scarf shirt shoe soap sock spoon stamp sugar sword table
    ticket towel wheel whistle
    """
)
NAMES = _words(
    """
    Adam Alice Anna Arthur Bella Carl Carol Clara Daniel David Diana Edward Elena Emma Eric Eva Felix Frank George
    Grace Hannah Helen Henry Ivan Jack James Jane Julia Karen Kevin Laura Leo Linda Lucas Maria Mark Martha Martin
    Mary Michael Nina Nora Oliver Oscar Paul Peter Rachel Robert Rosa Ruth Sam Sarah Simon Sofia Thomas Victor
    Walter William
    """
)
WHO = _words(
    """
    baker child doctor driver farmer guard guest hunter painter pilot sailor singer student teacher waiter writer
    """
)
DID = _words(
    """
    arrived danced laughed played rested sang sat slept smiled stood talked waited walked worked
    """
)
WHERE = _listed(
    """
    across the field; after the rain; at the station; behind the church; by the lake; during the winter; in the
    garden; in the kitchen; near the bridge; near the river; on the beach; on the hill; outside the town; under the
    tree
    """
)

_PIECES = re.compile(r"[^\W\d_]+|\d|[^\w\s]|\n")


def rough_tokens(text: str) -> int:
    """How many tokens a tokenizer makes of it, roughly: one for each word, digit, sign and line end."""
    return len(_PIECES.findall(text))


def filling() -> list[str]:
    """Sentences that say nothing of what is asked, each once."""
    return [f"The {who} {did} {where}." for who in WHO for did in DID for where in WHERE]
