"""Every operator of the design space as data: name, paper, parameter and multiply-add formulas, limits.

No torch here. The modules stand in the sibling files, and ``network.py`` maps each name to its class; a test keeps the
two sets of names equal. To add an operator: one spec here, one module, one line in that mapping.

Letters, used everywhere in this package:

========== =========================================================================================
``dims``   spatial axes, 2 or 3
``sites``  voxels of the map an operator reads (one image, not a batch)
``stride`` finer voxels per coarser one along each axis; ``factor`` the same across several levels
========== =========================================================================================

``conv_macs`` are the multiply-adds of convolutions and matrix products, exactly as ``torch.utils.flop_counter`` counts
them (half its FLOPs). ``other_macs`` are what it leaves out: 2^dims per interpolated or sampled value, one per pooled,
gated or added value. Without them sampling operators would look free.
"""

from unetx_space.operators.catalogue.alignment import ALIGNMENTS as ALIGNMENTS
from unetx_space.operators.catalogue.attention import ATTENTIONS as ATTENTIONS
from unetx_space.operators.catalogue.attention import CBAM_KERNEL as CBAM_KERNEL
from unetx_space.operators.catalogue.attention import SCSE_REDUCTION as SCSE_REDUCTION
from unetx_space.operators.catalogue.attention import SE_REDUCTION as SE_REDUCTION
from unetx_space.operators.catalogue.attention import eca_kernel as eca_kernel
from unetx_space.operators.catalogue.attention import gate_width as gate_width
from unetx_space.operators.catalogue.attention import hidden_width as hidden_width
from unetx_space.operators.catalogue.attention import token_width as token_width
from unetx_space.operators.catalogue.fusion import FUSIONS as FUSIONS
from unetx_space.operators.catalogue.spec import AlignmentSpec as AlignmentSpec
from unetx_space.operators.catalogue.spec import AttentionContext as AttentionContext
from unetx_space.operators.catalogue.spec import AttentionSpec as AttentionSpec
from unetx_space.operators.catalogue.spec import FusionSpec as FusionSpec
from unetx_space.operators.catalogue.spec import Gate as Gate
from unetx_space.operators.catalogue.spec import Spec as Spec
from unetx_space.operators.catalogue.spec import UpsamplerSpec as UpsamplerSpec
from unetx_space.operators.catalogue.spec import taps as taps
from unetx_space.operators.catalogue.upsampling import EDGE as EDGE
from unetx_space.operators.catalogue.upsampling import UPSAMPLERS as UPSAMPLERS
