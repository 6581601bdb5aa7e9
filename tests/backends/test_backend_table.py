"""The table of backends, and what importing agd costs."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import agd
from agd import backends
from agd.backends import TABLE

HEAVY = (
    "cupy",
    "torch",
    "jax",
    "dask",
    "sklearn",
    "scipy",
    "matplotlib",
    "pyarrow",
    "rich",
    "typer",
)


def test_the_table_has_the_promised_rows():
    names = [row.name for row in TABLE]
    assert names == ["numpy", "cupy", "torch", "jax", "dask", "array-api-strict"]


def test_every_row_owns_its_arrays_alone(xp):
    array = xp.asarray([1.0, 2.0])
    owners = [row.name for row in TABLE if row.owns(array)]
    assert owners == [backends.of(array).name]
    assert owners[0].replace("array-api-strict", "strict") == xp.name.partition(":")[0].replace(
        "array-api-strict", "strict"
    )
    np.testing.assert_array_equal(backends.to_numpy(array), [1.0, 2.0])


def test_a_row_says_whether_it_can_be_written_in_place(xp):
    row, array = backends.of(xp.asarray([1.0, 2.0])), xp.asarray([1.0, 2.0])
    if xp.name == "numpy:readonly":
        pytest.skip("the row speaks of the library, not of this array")
    if row.mutable:
        array[0] = 5.0
        assert xp.to_numpy(array)[0] == 5.0
    elif row.name == "jax":
        with pytest.raises(TypeError, match="immutable"):
            array[0] = 5.0


def test_selection_makes_arrays_and_changes_nothing_else(xp):
    if xp.name == "numpy:readonly":
        pytest.skip("select makes arrays that can be written to")
    chosen = backends.select(xp.name)
    array = chosen.asarray([[1, 2], [3, 4]])
    assert backends.of(array) is chosen.backend
    assert tuple(array.shape) == (2, 2)
    assert str(chosen).startswith(chosen.backend.name)
    assert isinstance(agd.fit(np.eye(3), np.ones(3), intercept=False).coef, np.ndarray)


def test_any_numpy_array_can_be_brought_to_any_library(xp):
    if xp.name == "numpy:readonly":
        pytest.skip("select makes arrays that can be written to")
    chosen, want = backends.select(xp.name), np.arange(6).reshape(3, 2)
    frozen = np.array(want)
    frozen.setflags(write=False)
    for same in (frozen, want[::-1][::-1], want.astype(">i8"), np.array(want[::-1])[::-1]):
        array = chosen.asarray(same)
        np.testing.assert_array_equal(backends.to_numpy(array), want)


def test_available_lists_every_row():
    found = {info.name: info for info in backends.available()}
    assert set(found) == {row.name for row in TABLE}
    assert found["numpy"].installed
    assert found["numpy"].version == np.__version__
    for info in found.values():
        if not info.installed:
            assert "python -m pip install" in info.reason
        assert bool(info.devices) != bool(info.reason)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("nunpy", ValueError, "did you mean 'numpy'"),
        ("", ValueError, "backend must be one of 'auto', 'numpy'"),
        ("numpy:gpu", RuntimeError, r"device 'gpu' of backend 'numpy' cannot.*devices here: cpu\)"),
        ("NumPy", ValueError, "did you mean 'numpy'"),
        (3, TypeError, "backend must be a string such as 'numpy', got int"),
    ],
)
def test_what_cannot_be_selected(spec, error, message):
    with pytest.raises(error, match=message):
        backends.select(spec)


@pytest.mark.parametrize("row", [r for r in TABLE if r.name != "numpy"], ids=lambda r: r.name)
def test_a_missing_library_is_named_with_the_line_to_install_it(row, monkeypatch):
    monkeypatch.setitem(sys.modules, row.module, None)
    with pytest.raises(ImportError, match="python -m pip install") as caught:
        backends.select(row.name)
    assert row.install in str(caught.value)
    assert "\n" not in str(caught.value)


def test_auto_takes_numpy_where_no_cuda_device_answers(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert backends.select("auto").backend.name == "numpy"


@pytest.mark.gpu
def test_auto_takes_cupy_where_a_cuda_device_answers():
    assert backends.select("auto").backend.name == "cupy"
    assert backends.select("cupy:0").device.id == 0


@pytest.mark.gpu
def test_a_second_device_is_used_where_there_is_one():
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("CuPy sees one device")
    chosen = backends.select("cupy:1")
    found = agd.fit(chosen.asarray(np.eye(3)), chosen.asarray(np.ones(3)))
    assert found.coef.device.id == 1


@pytest.mark.backend("torch")
def test_a_device_that_is_missing():
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch sees a CUDA device")
    with pytest.raises(RuntimeError, match="device 'cuda:0' of backend 'torch' cannot be used"):
        backends.select("torch:cuda:0")


@pytest.mark.backend("strict")
def test_float64_is_narrowed_aloud_where_a_device_has_none():
    with pytest.warns(UserWarning, match="has no float64: float32 is used"):
        array = backends.select("array-api-strict:no_float64").asarray([1.0])
    assert "float32" in str(array.dtype)


@pytest.mark.backend("jax")
def test_jax_says_once_that_it_narrows():
    code = (
        "import warnings, agd\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(3):\n"
        "        dtype = agd.backends.select('jax').asarray([1.0]).dtype\n"
        "print(dtype, [str(w.message)[:31] for w in seen])\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_X64"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "float32 ['JAX narrows float64 to float32:']"


def test_arrays_of_unknown_libraries_are_named():
    with pytest.raises(TypeError, match="list is no array of a library that agd knows"):
        backends.of([1.0])


def test_import_is_light():
    """The time of an import is that of its modules: `import agd` brings few, and no library."""
    code = (
        "import sys, numpy\n"
        "before = set(sys.modules)\n"
        "import agd\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert "agd" in modules
    assert len(modules) <= 20
    assert {name.partition(".")[0] for name in modules} <= {"agd", *sys.stdlib_module_names}


def test_no_name_needs_another_array_library():
    code = (
        "import sys, agd\n"
        "names = [getattr(agd, name) for name in agd.__all__]\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "first", ["import agd.minimize", "from agd.minimize import maximize", "import agd; agd.fit"]
)
def test_minimize_is_the_function_however_it_is_reached(first):
    code = f"{first}\nimport agd\nfrom agd import minimize\nprint(callable(agd.minimize), agd.minimize is minimize)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_the_package_names_what_it_has():
    assert set(agd.__all__) == {name for name in dir(agd) if not name.startswith("__")}
    with pytest.raises(AttributeError, match="module 'agd' has no attribute 'fti'"):
        agd.fti  # noqa: B018


@pytest.mark.backend("jax")
@pytest.mark.parametrize("device", ["cpu:7", "cpu:x", "cpu:-1"])
def test_a_jax_device_that_is_not_there(device):
    pytest.importorskip("jax")
    with pytest.raises(
        RuntimeError, match=rf"device '{device}'.*no such device \(devices here: cpu:0"
    ):
        backends.select(f"jax:{device}")
    assert str(backends.select("jax:cpu:0")) == "jax (cpu:0)"
