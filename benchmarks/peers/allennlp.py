"""AllenNLP's own biLM.

The packages `allennlp`, `.modules` and `.data` are imported without running their `__init__`. These would import the
whole library, with torchvision and fairscale, which ELMo does not use. ELMo's own files run as they are.
"""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

from peers import simple_elmo_pytorch


class Engine(simple_elmo_pytorch.Engine):
    """See peers/__init__.py."""

    def _bilm_class(self) -> tuple[Any, Any]:
        spec = importlib.util.find_spec("allennlp")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        root = Path(spec.submodule_search_locations[0]).parent
        for name in ("allennlp", "allennlp.modules", "allennlp.data"):
            package = types.ModuleType(name)
            package.__path__ = [str(root.joinpath(*name.split(".")))]
            sys.modules[name] = package
        from allennlp.modules.elmo import _ElmoBiLm, batch_to_ids

        return _ElmoBiLm, batch_to_ids
