"""Classes whose objects can be saved: no file can make objects of other classes."""

from sklearn.frozen import FrozenEstimator

from .._validation import Layout
from ..denoisers import (
    AutoDenoiser,
    BlendedDenoiser,
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
    SingleImageDenoiser,
    SmoothedDenoiser,
)
from ..denoisers.auto import AutoBlend
from ..denoisers.blend import Blend
from ..denoisers.collection import GivenWindows
from ..denoisers.flexible import MeasuredHeat, ResolvedWindows, StoredHeat, WienerHeat
from ..denoisers.gaussian import GaussianPrior
from ..denoisers.local_score import CentredBySigma
from ..denoisers.patch import CropPriors
from ..denoisers.pca_locality import Neighbourhoods
from ..denoisers.pspc import SquaresBySigma
from ..denoisers.single_image import SquaresAnywhereBySigma
from ..denoisers.smoothed import SmoothedPrior
from ..posterior import (
    CellSearch,
    Gaussian,
    NeighbourSearch,
    Prior,
    StationaryGaussian,
    TreeCache,
    TreeSearch,
)
from ..sampling import BandwidthSchedule, PatchSchedule
from ..sampling.convert import NearestStep
from ..support import (
    Centred,
    Inpainting,
    Labels,
    Masks,
    MirroredTrainingSet,
    Neighbours,
    Pyramid,
    Squares,
    SquaresAnywhere,
    TrainingSet,
    TranslatedTrainingSet,
    Whole,
)
from ..support.cells import CellsByWindow
from ..support.covariance import Moments, Spectrum
from ..support.search.coordinates import Coordinates

CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        # estimators
        AutoDenoiser,
        BlendedDenoiser,
        EmpiricalDenoiser,
        FlexibleWindows,
        FrozenEstimator,
        GaussianDenoiser,
        LocalScoreDenoiser,
        NetworkDenoiser,
        PCALocalityDenoiser,
        PSPCDenoiser,
        PatchDenoiser,
        PosteriorMeanCollection,
        SingleImageDenoiser,
        SmoothedDenoiser,
        # parameters
        BandwidthSchedule,
        NearestStep,
        PatchSchedule,
        # what they learn
        AutoBlend,
        Blend,
        CellSearch,
        CellsByWindow,
        Centred,
        CentredBySigma,
        Coordinates,
        CropPriors,
        Gaussian,
        GaussianPrior,
        GivenWindows,
        Inpainting,
        Labels,
        Layout,
        Masks,
        MeasuredHeat,
        MirroredTrainingSet,
        Moments,
        NeighbourSearch,
        Neighbourhoods,
        Neighbours,
        Prior,
        Pyramid,
        ResolvedWindows,
        SmoothedPrior,
        Spectrum,
        Squares,
        SquaresAnywhere,
        SquaresAnywhereBySigma,
        SquaresBySigma,
        StationaryGaussian,
        TreeCache,
        TreeSearch,
        StoredHeat,
        TrainingSet,
        TranslatedTrainingSet,
        Whole,
        WienerHeat,
    )
}
