"""How a running server's tuner is changed: by an operator, as a trial on live traffic, in the shadow."""
