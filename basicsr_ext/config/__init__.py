"""Option files: schema, loading, overrides, error messages.

Of the package it imports only ``registry``, ``plugins`` and ``spelling``, and no torch.
"""

from .datasets import DatasetOptions as DatasetOptions
from .datasets import LoaderKeys as LoaderKeys
from .errors import OptionError as OptionError
from .errors import Problem as Problem
from .errors import SourceMap as SourceMap
from .loading import load_options as load_options
from .schema import Options as Options
from .schema import Scheduler as Scheduler
from .schema import Spec as Spec
from .schema import Train as Train
from .schema import Val as Val
from .schema import accumulated as accumulated
from .schema import resolved_stages as resolved_stages
from .sections import Section as Section
from .signature import check_arguments as check_arguments
