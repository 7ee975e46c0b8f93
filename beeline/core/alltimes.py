"""All time samplers under one name: ``bl.times``."""

from beeline.core.draws import Antithetic, Binned, Frames, NormalSNR, Pairs, Stratified, log_snr, snr_log_prob
from beeline.core.times import At, Beta, Bifocal, CosMap, LogitNormal, Mode, TimeSampler, Uniform, UShaped

__all__ = [
    "Antithetic",
    "At",
    "Beta",
    "Bifocal",
    "Binned",
    "CosMap",
    "Frames",
    "LogitNormal",
    "Mode",
    "NormalSNR",
    "Pairs",
    "Stratified",
    "TimeSampler",
    "UShaped",
    "Uniform",
    "log_snr",
    "snr_log_prob",
]
