"""Build options of llama.cpp fit the processor and the system."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemtune.llama_cpp import PROGRAMS, has_programs, is_built
from trainer.gguf import llama_cpp_build
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
    assert f"-DCMAKE_INSTALL_RPATH={folder};{folder}/../lib" in options_of(system, "arm64")


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


def test_a_build_without_programs_stays_in_use_until_they_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, built = tmp_path / "llama.cpp", list[bool]()
    monkeypatch.setattr("shutil.which", lambda program: program)

    def fake_build(work: Path, say: object, *, programs: bool) -> None:
        assert is_built(folder) is bool(built), "the old build is there while the new one is made"
        built.append(programs)
        result = work / "result"
        (result / "bin").mkdir(parents=True)
        for name in PROGRAMS if programs else ():
            (result / "bin" / name).write_text("")
        (result / "built.json").write_text("{}")

    monkeypatch.setattr(llama_cpp_build, "_build", fake_build)
    for programs in (False, False, True, True, False):
        assert llama_cpp_build.build(folder, programs=programs, say=lambda line: None) == folder
    assert (built, has_programs(folder)) == ([False, True], True)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["llama.cpp"]


def test_programs_need_parts_that_jobs_do_without() -> None:
    without, with_programs = (options_of("Linux", "x86_64", programs=programs) for programs in (False, True))
    assert {"-DLLAMA_BUILD_TOOLS=OFF", "-DLLAMA_BUILD_SERVER=OFF"} <= set(without)
    assert {"-DLLAMA_BUILD_TOOLS=ON", "-DLLAMA_BUILD_SERVER=ON"} <= set(with_programs)
