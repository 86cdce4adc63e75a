"""Option files: schema, loading, overrides, error messages. Imports nothing else of the package, no torch."""

from .errors import OptionError as OptionError
from .errors import Problem as Problem
from .errors import SourceMap as SourceMap
from .loading import load_options as load_options
from .schema import Options as Options
from .signature import check_arguments as check_arguments
from .stages import resolved_stages as resolved_stages
