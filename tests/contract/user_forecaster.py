"""A forecaster as a user writes one: recent returns, drawn with replacement."""

import numpy as np
from pydantic import Field

from btcbt.forecasters import Forecaster, Params
from btcbt.records import CLOSE


class RecentReturnsParams(Params):
    recent: int = Field(24, ge=2, description="Returns to draw from, the newest of the window")


class RecentReturns(Forecaster):
    """Bootstrap of the newest returns of the window."""

    Params = RecentReturnsParams
    paths_are = "independent"

    def forecast(self, windows):
        closes = self.history(windows)[:, -self.params.recent - 1 :, CLOSE]
        returns = np.diff(np.log(closes), axis=1)  # (B, R)
        drawn = (self.uniforms(windows)[..., 0] * returns.shape[1]).astype(int)  # (B, S, H)
        steps = np.take_along_axis(returns[:, None], drawn, axis=2)
        return self.batch(windows, closes[:, -1, None, None] * np.exp(np.cumsum(steps, axis=2)))

    def data_ranges(self):
        return ()
