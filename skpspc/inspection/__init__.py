"""Measurements and pictures of denoisers: errors, heat maps, attributions, copies and samples."""

from ._plot.attribution import AttributionDisplay
from ._plot.calibration import CalibrationCurveDisplay
from ._plot.comparison import ComparisonDisplay
from ._plot.equivalence import LocalEquivalenceDisplay
from ._plot.error_curve import ErrorCurveDisplay
from ._plot.image_grid import ImageGridDisplay
from ._plot.information import EntropyMapDisplay, InformationCurveDisplay
from ._plot.risk import MemorisationRiskDisplay
from ._plot.sample_grid import SampleGridDisplay
from ._plot.sensitivity import SensitivityDisplay
from ._plot.trajectory import TrajectoryDisplay
from .attribution import Attribution, attribute, leave_out
from .calibration import CalibrationTable, calibrate_patch_size, calibrate_thresholds
from .curves import compare, error_curve
from .distributions import fid, kid
from .equivalence import LocalEquivalence, local_equivalence, suggest_patch_size
from .images import show_images
from .information import EntropyMap, InformationCurve, information_curve, posterior_entropy
from .locality import locality_radius, spread_heat_maps
from .memorisation import memorised_fraction, nearest_training_distance, nearest_training_images
from .metrics import Measurement, cosine, mse, pearson_r, psnr, r2_score, ssim
from .risk import MemorisationRisk, memorisation_risk
from .sensitivity import heat_maps, save_heat_maps
from .tables import ComparisonTable, ErrorTable

__all__ = [
    "Attribution",
    "AttributionDisplay",
    "CalibrationCurveDisplay",
    "CalibrationTable",
    "ComparisonDisplay",
    "ComparisonTable",
    "EntropyMap",
    "EntropyMapDisplay",
    "ErrorCurveDisplay",
    "ErrorTable",
    "ImageGridDisplay",
    "InformationCurve",
    "InformationCurveDisplay",
    "LocalEquivalence",
    "LocalEquivalenceDisplay",
    "Measurement",
    "MemorisationRisk",
    "MemorisationRiskDisplay",
    "SampleGridDisplay",
    "SensitivityDisplay",
    "TrajectoryDisplay",
    "attribute",
    "calibrate_patch_size",
    "calibrate_thresholds",
    "compare",
    "cosine",
    "error_curve",
    "fid",
    "heat_maps",
    "information_curve",
    "kid",
    "leave_out",
    "local_equivalence",
    "locality_radius",
    "memorisation_risk",
    "memorised_fraction",
    "mse",
    "nearest_training_distance",
    "nearest_training_images",
    "pearson_r",
    "posterior_entropy",
    "psnr",
    "r2_score",
    "save_heat_maps",
    "show_images",
    "spread_heat_maps",
    "ssim",
    "suggest_patch_size",
]
