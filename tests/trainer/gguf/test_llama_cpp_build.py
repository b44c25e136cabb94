"""Build options of llama.cpp fit the processor and the system."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.gguf.llama_cpp_build import X86_OPTIONS, BuildError, collect_libraries, options_of


@pytest.mark.parametrize("system", ["Linux", "Darwin"])
def test_only_x86_builds_have_x86_options(system: str) -> None:
    assert set(X86_OPTIONS) <= set(options_of(system, "x86_64"))
    for processor in ("arm64", "aarch64", "riscv64", "ppc64le"):
        options = options_of(system, processor)
        assert not [option for option in options if any(word in option for word in ("AVX", "FMA", "F16C", "BMI"))]
        assert "-DGGML_NATIVE=OFF" in options


@pytest.mark.parametrize(("system", "folder"), [("Linux", "$ORIGIN"), ("Darwin", "@loader_path")])
def test_a_library_finds_its_neighbours(system: str, folder: str) -> None:
    assert f"-DCMAKE_INSTALL_RPATH={folder}" in options_of(system, "arm64")


@pytest.mark.parametrize(
    ("links", "library"),
    [
        (("libllama.so", "libllama.so.0"), "libllama.so.0.5.0"),
        (("libllama.dylib", "libllama.0.dylib"), "libllama.0.5.0.dylib"),
    ],
)
def test_libraries_of_linux_and_macos_are_collected_with_their_links(
    links: tuple[str, str], library: str, tmp_path: Path
) -> None:
    built, target = tmp_path / "bin", tmp_path / "lib"
    built.mkdir()
    (built / library).write_bytes(b"library")
    for link in links:
        (built / link).symlink_to(library)
    (built / "libggml.a").write_bytes(b"archive")
    (built / "cmake_install.cmake").write_text("")
    collect_libraries(built, target)
    assert {path.name for path in target.iterdir()} == {*links, library}
    assert all((target / link).is_symlink() for link in links)
    assert (target / links[0]).read_bytes() == b"library"


def test_a_build_without_shared_libraries_fails(tmp_path: Path) -> None:
    (tmp_path / "libllama.a").write_bytes(b"archive")
    with pytest.raises(BuildError, match="no shared library"):
        collect_libraries(tmp_path, tmp_path / "lib")
