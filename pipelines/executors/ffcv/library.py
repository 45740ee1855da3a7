"""The parts of FFCV that are used, imported without what the import does to the rest of the process.

Importing FFCV sets torch's and numba's number of threads to 1, which would slow a training on the CPU down.
"""

import importlib.util

import numba
import torch


def is_installed() -> bool:
    """Whether `import ffcv` would find a package; nothing is imported."""
    return importlib.util.find_spec("ffcv") is not None


if not is_installed():
    raise ImportError(
        "executor 'ffcv' needs FFCV: apt install libopencv-dev libturbojpeg0-dev pkg-config g++; "
        "pip install 'viewmill[ffcv]'. Without it, executor 'host' reads betons too"
    )
_torch_threads, _numba_threads = torch.get_num_threads(), numba.get_num_threads()
try:
    from ffcv.fields import RGBImageField as RGBImageField
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder as SimpleRGBImageDecoder
    from ffcv.libffcv import imdecode as imdecode
    from ffcv.pipeline.allocation_query import AllocationQuery as AllocationQuery
    from ffcv.pipeline.compiler import Compiler as Compiler
    from ffcv.pipeline.graph import Graph as Graph
    from ffcv.pipeline.pipeline_spec import PipelineSpec as PipelineSpec
    from ffcv.pipeline.state import State as State
finally:
    torch.set_num_threads(_torch_threads)
    numba.set_num_threads(_numba_threads)
