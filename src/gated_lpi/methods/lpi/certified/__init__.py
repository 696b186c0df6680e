"""The certified fast estimator: most scores from a few moments, each with a proven bound, the rest from the whole sum.

Under the frozen norm I = c·(u_target − a) − log E_p[exp(c·(u − a))] (`certificate`). For every block,

1. the logit lens gives p of each prompt, and one more product E_p[w], hence a = E_p[u] of all units (`distribution`);
2. with no token looked at, a unit's whole remainder is bounded by the spread of the unembedding (tier *linear*);
3. units with a pair whose bound exceeds the tolerance go on to the tokens that matter most, the first 1,024, then
   4,096: u over these tokens and its first two moments under p, two matrix products for all prompts (tier
   *moments*, `moments`), and the other tokens bounded by an envelope of p (`envelope`), or found roughly by products of
   8-bit integers (`eight_bit`). A unit stops as soon as the bounds of all its pairs are met; a sample of units tells
   which numbers of tokens are worth stopping at, and whether to fit the envelope to the prompts (`stops`, `parts`);
4. units that are left have their moments summed over the whole vocabulary, many of them together;
5. pairs that no moments can settle, those that move the logits far, are summed exactly (`exact_pairs`).

Heads and experts go the same way with their summed contributions, each on its prompt (`contributions`,
`vector_products`), and before all tokens in float32 through these in two digits of 8 bits (`two_digits`); a block is
mostly told by the next block's base (`blocks`).

What depends on the checkpoint alone is prepared once: the unembedding's spread, and Σ_j u_j² of units that need it.
Of a mixture of experts, only units of experts that some prompt was routed to are touched, expert by expert.
A softcap, or a norm that is recomputed, has no such form: there the exact estimator is used, and the counts of
`BlockScores.tiers` say so.

Read in this order: `certificate` (the proof as code), `unembedding` and `prepared` (what is known of a checkpoint),
`distribution` (of a block's prompts), `envelope` and `moments` (what is summed), `parts` (units on their way),
`stops` (where they stop to be certified), `cascade` (the whole way of a block); then `eight_bit` and `exact_pairs`,
which step 3 and step 5 fall back to; and `contributions`, with what it uses, and `blocks`. A *level* is one of the
nested sets of likeliest tokens, a *stop* a level at which units are certified, a *tier* what a score was found from in
the end. The proof in words is docs/certificate.md.
"""

from gated_lpi.methods.lpi.certified.estimator import CertifiedEstimator

__all__ = ["CertifiedEstimator"]
