from ..spanish.story import grammar
__all__ = ["grammar"]
