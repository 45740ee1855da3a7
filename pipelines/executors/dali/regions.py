"""What has to be decoded of an image: the smallest region that holds the boxes of all its views."""

import numpy as np
from viewmill.pipelines.plans.planner import ViewPlan


def regions_of(plan: ViewPlan) -> np.ndarray:
    """What the views see of every image: (n, 4) int32 top, left, bottom, right; pixels, the ends excluded."""
    starts = [side.min(axis=1) for side in (plan.top, plan.left)]
    ends = [(plan.top + plan.height).max(axis=1), (plan.left + plan.width).max(axis=1)]
    return np.stack(starts + ends, axis=1).astype(np.int32)
