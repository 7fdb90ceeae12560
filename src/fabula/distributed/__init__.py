"""Several processes that train one model: who is there, what they tell each other, how the model lies over them."""
