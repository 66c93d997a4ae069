from .cleaning import clean_foods as clean_foods
from .columns import CATFOOD as CATFOOD
from .model import predict_scores as predict_scores
from .model import train_model as train_model
from .simulate import simulate_foods as simulate_foods
