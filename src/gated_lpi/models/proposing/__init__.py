"""A row for a family that the table does not have, read off the model itself.

1. The model runs over a few tokens, and what every module is given and returns is kept (`observing`).
2. Layers are the longest list of modules each of which is given what the one before returned.
3. In a layer attention and mixers are known by the names of their classes, and their output projection as the last one
   inside that is as wide as the residual stream. What else has weights is the FFN: its down projection likewise, or
   fused experts, a router that returns the experts chosen, a shared expert and its gate. A norm that is given what a
   block computes is a post-norm.
4. What the layer adds to the stream must be its blocks' writes, or all of them times one number that the config has, or
   each times one that the layer has. Whether the FFN reads the layer's input is seen by changing what the others write.
5. The final norm is the one that is given what the last layer returns; its formula is the one of four that yields what
   it returned. The unembedding is transformers' own; what stands between it and the logits is a number or a softcap.

Nothing here is trusted: the proof at load decides whether the row is right. What does not fit is refused by name.
"""

from gated_lpi.models.proposing.propose import propose
from gated_lpi.models.proposing.refusing import refuse_type

__all__ = ["propose", "refuse_type"]
