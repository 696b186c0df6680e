"""What the notebooks of the publications write, in one call, so that whoever reads their files can go on doing so.

The notebooks are OLMoE_view_knowledge and OLMo_view_knowledge of arXiv 2601.08383 (github.com/AlecMaxPro/MoE-Neuron,
commit 712b7fc), and Llama_view_knowledge of its dense predecessor, arXiv 2312.12141
(github.com/zepingyu0512/neuron-attribution). Names and layout of files were read there; all numbers are this package's
own. docs/published.md lists both, and where the numbers differ.

    gated_lpi.published.write_files(model, "The capital of France is", "Output_Dir/1")

`seen` has what one forward pass shows of attention and routers, `queries` the query neurons, `files` lays all out.
"""

from gated_lpi.published.files import PublishedFiles, write_files
from gated_lpi.published.queries import query_neurons

__all__ = ["PublishedFiles", "query_neurons", "write_files"]
