"""Small real tasks: data sets, models and the training loop that experiments run on.

They exist so that a fault's effect can be seen on real data in minutes. Injection needs none of them: it works on any
module and any loop.
"""

from ._data import DataSet as DataSet
from ._data import cluttered_digits as cluttered_digits
from ._gpt import gpt as gpt
from ._models import MODEL_FORMAT as MODEL_FORMAT
from ._models import MODELS as MODELS
from ._models import Model as Model
from ._models import alexnet as alexnet
from ._models import build_model as build_model
from ._models import lenet5 as lenet5
from ._models import mlp as mlp
from ._models import without_memory as without_memory
from ._recipe import OPTIMIZERS as OPTIMIZERS
from ._recipe import RECIPES as RECIPES
from ._recipe import SCHEDULES as SCHEDULES
from ._recipe import Recipe as Recipe
from ._recipe import recipe_for as recipe_for
from ._recipe import states_kept as states_kept
from ._resnet import IMAGENET_MEAN as IMAGENET_MEAN
from ._resnet import IMAGENET_STD as IMAGENET_STD
from ._resnet import resnet18 as resnet18
from ._resnet import resnet18_nobn as resnet18_nobn
from ._resnet import resnet20 as resnet20
from ._resnet import trained_resnet20 as trained_resnet20
from ._sources import DATA_SETS as DATA_SETS
from ._sources import Source as Source
from ._sources import load_data as load_data
from ._text import CHARACTERS as CHARACTERS
from ._text import text as text
from ._training import Training as Training
from ._training import accuracy as accuracy
from ._training import backpropagate as backpropagate
from ._training import check_fits as check_fits
