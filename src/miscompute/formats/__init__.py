"""Number formats as data, so that every stage of miscompute names a bit in the same way.

A fault hits a *bit of a word*; whether that word is an fp32 or an int8 decides everything that follows. A format is
a row of a table, not a class of its own.
"""

from ._block import BlockWords as BlockWords
from ._block import to_block as to_block
from ._format import FORMATS as FORMATS
from ._format import Format as Format
from ._format import format_named as format_named
from ._format import integer as integer
