"""Models whose code tries to get out of `check`: which doors they try, and how harm is seen from outside."""
