"""The form of a sum of power laws, L = E + Σ_k c_k Π_j x_j^(-e_kj): its terms, its parameters, and its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from studies.analysis.laws.base import Array

Numbers = npt.NDArray[Any]
"""Real, or complex while derivatives are taken."""
Values = Mapping[str, Numbers]
Columns = Mapping[str, Array]


class Term(msgspec.Struct, frozen=True):
    """`coefficient` · Π variable^(-exponent); `powers` holds (variable, name of its exponent) pairs."""

    coefficient: str
    powers: tuple[tuple[str, str], ...]


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter of a derived variable: bounds, where the fit starts, and whether its logarithm is what is fitted."""

    name: str
    low: float
    high: float
    starts: tuple[float, ...]
    logarithmic: bool = False


class Derived(msgspec.Struct, frozen=True):
    """A variable computed from columns: `value(values, columns)` must be positive, and analytic in the values.

    `values` maps every parameter of the law to shape (K, 1), complex while derivatives are taken; the result is (K, n).
    """

    name: str
    parameters: tuple[Parameter, ...]
    value: Callable[[Values, Columns], Numbers]


class PowerSum(msgspec.Struct, frozen=True, kw_only=True):
    """L = `constant` + Σ `terms`. With `signed` the constant may be of either sign, else it is not negative."""

    terms: tuple[Term, ...]
    derived: tuple[Derived, ...] = ()
    constant: str = "E"
    signed: bool = False

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of the terms' coefficients."""
        return tuple(term.coefficient for term in self.terms)

    @property
    def exponents(self) -> tuple[str, ...]:
        """Names of the exponents, each once."""
        return tuple(dict.fromkeys(exponent for term in self.terms for _, exponent in term.powers))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Parameters of the derived variables."""
        return tuple(parameter for one in self.derived for parameter in one.parameters)

    @property
    def names(self) -> tuple[str, ...]:
        """All parameters: the constant, coefficients, exponents, those of derived variables."""
        return (self.constant, *self.coefficients, *self.exponents, *(p.name for p in self.parameters))

    def variables(self, values: Values, columns: Columns) -> dict[str, Numbers]:
        """Columns and derived variables by name."""
        found: dict[str, Numbers] = dict(columns)
        for one in self.derived:
            found[one.name] = one.value(values, columns)
        return found

    def losses(self, values: Values, columns: Columns, offset: Numbers | float = 0.0) -> Numbers:
        """The sum for `values` of shape (K, 1) at columns of shape (n,): (K, n). `offset` is added."""
        variables = self.variables(values, columns)
        total: Numbers = values[self.constant] + offset
        for term in self.terms:
            power = sum(values[exponent] * np.log(variables[name]) for name, exponent in term.powers)
            total = total + values[term.coefficient] * np.exp(-power)
        return total


def named(form: PowerSum, parameters: Array) -> dict[str, Array]:
    """Rows of parameters (K, p) by name, each of shape (K, 1)."""
    return {name: parameters[:, k, None] for k, name in enumerate(form.names)}
