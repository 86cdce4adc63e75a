"""A degradation step of one's own: ``degradation: [{type: darken}, {type: matlab_bicubic}]``."""

import numpy as np
from pydantic import Field
from typing_extensions import override

from basicsr_ext.data.degradations import Step
from basicsr_ext.data.degradations.operation import Operation, on_floats, uniform
from basicsr_ext.data.degradations.steps import NonNegativeRange
from basicsr_ext.registry import DEGRADATIONS


@DEGRADATIONS.register("darken")
class Darken(Step):
    """Less light, by a factor that is drawn for each sample."""

    factor: NonNegativeRange = Field(default=(0.5, 1.0), description="Of every value: least and largest.")

    @override
    def draw(self, rng: np.random.Generator) -> Operation:
        factor = np.float32(uniform(rng, self.factor))
        return Operation(on_floats(lambda image: image * factor))
