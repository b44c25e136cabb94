"""Build of llama.cpp, once per machine, to write and run GGUF.

`python -m trainer.gguf.llama_cpp_build [--programs] [FOLDER]`. The source distribution of llama-cpp-python, at a pinned
version, contains all of llama.cpp: its converter, the library that quantizes and runs models, and matching bindings.
Jobs never build anything. They need no programs, which `--programs` adds for people who run exports by hand.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gemtune.llama_cpp import BUILT, PROGRAMS, PROGRAMS_FOLDER, SHA256, VERSION, has_programs, is_built

REQUIRED_PROGRAMS = ("cmake", "c++")
# GGML_NATIVE=OFF builds for any processor of the architecture, because the image runs on other machines than the one
# that builds it. Without OpenMP llama.cpp uses its own threads, and needs one library less. Exports run on the CPU, so
# Metal is not needed.
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DGGML_NATIVE=OFF",
    "-DGGML_OPENMP=OFF",
    "-DGGML_METAL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_CURL=OFF",
)
# The parts that only programs need.
PROGRAM_PARTS = ("LLAMA_BUILD_COMMON", "LLAMA_BUILD_TOOLS", "LLAMA_BUILD_SERVER")
# Models are computed in these libraries alone. The rest of the programs is compiled with few optimizations, in a
# fraction of the time.
LIBRARIES = ("ggml-base", "ggml-cpu", "ggml", "llama")
PROGRAM_FLAGS = """add_compile_options("$<$<NOT:$<IN_LIST:$<TARGET_PROPERTY:NAME>,{}>>:-O1>")
""".format(";".join(LIBRARIES))
# Instructions of any x86-64 processor of the last ten years.
X86_OPTIONS = ("-DGGML_AVX=ON", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON", "-DGGML_BMI2=ON")
# Files and folders that the result keeps: path in the source distribution -> path in the result.
RESULT_FILES = {
    "vendor/llama.cpp/convert_hf_to_gguf.py": "convert_hf_to_gguf.py",
    "vendor/llama.cpp/convert_lora_to_gguf.py": "convert_lora_to_gguf.py",
    "vendor/llama.cpp/conversion": "conversion",
    "vendor/llama.cpp/gguf-py/gguf": "gguf-py/gguf",
    "vendor/llama.cpp/LICENSE": "LICENSE",
    # Only the bindings: the package's own __init__ imports many other packages.
    "llama_cpp/llama_cpp.py": "bindings/llama_cpp/llama_cpp.py",
    "llama_cpp/_ctypes_extensions.py": "bindings/llama_cpp/_ctypes_extensions.py",
}
_NINJA_OR_MAKE = re.compile(r"^\[\s*(?:(?P<done>\d+)/(?P<all>\d+)|(?P<percent>\d+)%)\]")


class BuildError(Exception):
    """Raised when llama.cpp cannot be built; its text says why."""


def build(folder: Path, *, programs: bool = False, say: Callable[[str], None] = print) -> Path:
    """Build llama.cpp into `folder` if it is not there yet; return the folder.

    programs: with its own programs. A build without them stays in use until the new one is complete. While another
    process builds it, this one waits. Raises BuildError.
    """
    is_complete = has_programs if programs else is_built
    if is_complete(folder):
        return folder
    missing = [program for program in REQUIRED_PROGRAMS if shutil.which(program) is None]
    if missing:
        how = "xcode-select --install; brew install cmake" if sys.platform == "darwin" else "apt-get install cmake g++"
        raise BuildError(f"building llama.cpp needs {' and '.join(missing)}: {how}")
    with _exclusive(folder):
        if is_complete(folder):
            return folder
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)  # left by a build that was killed
        _build(unfinished, say, programs=programs)
        shutil.rmtree(folder, ignore_errors=True)
        (unfinished / "result").rename(folder)
        shutil.rmtree(unfinished)
    return folder


def options_of(system: str, processor: str, *, programs: bool = False) -> tuple[str, ...]:
    """Return CMake's options for a system and a processor.

    Both are named as in `platform`: "Darwin", "arm64".
    """
    own_folder = "@loader_path" if system == "Darwin" else "$ORIGIN"  # the folder of the file that loads a library
    x86 = X86_OPTIONS if processor.lower() in ("x86_64", "amd64") else ()
    parts = (f"-D{part}={'ON' if programs else 'OFF'}" for part in PROGRAM_PARTS)
    return (*OPTIONS, *parts, f"-DCMAKE_INSTALL_RPATH={own_folder};{own_folder}/../lib", *x86)


def collect_libraries(built: Path, into: Path) -> None:
    """Copy the shared libraries of a build; links stay links.

    Raises BuildError if there are none.
    """
    libraries = sorted(path for path in built.glob("lib*") if {".so", ".dylib"} & set(path.suffixes))
    if not libraries:
        raise BuildError(f"the build produced no shared library in {built}")
    into.mkdir()
    for library in libraries:
        shutil.copy2(library, into / library.name, follow_symlinks=False)


def _build(work: Path, say: Callable[[str], None], *, programs: bool) -> None:
    began = time.monotonic()
    work.mkdir(parents=True)
    minutes = 7 if programs else 5
    say(f"building llama.cpp (of llama-cpp-python {VERSION}), once per machine: about {minutes} minutes on 2 cores")
    source = _unpacked(_downloaded(work), work)
    say(f"  {time.monotonic() - began:5.0f} s  source downloaded and checked")
    binaries = work / "build"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    options = options_of(platform.system(), platform.machine(), programs=programs)
    (work / "flags.cmake").write_text(PROGRAM_FLAGS)
    flags = f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={work / 'flags.cmake'}"
    _run(["cmake", *generator, "-S", str(source / "vendor" / "llama.cpp"), "-B", str(binaries), *options, flags])
    jobs, targets = str(os.cpu_count() or 1), ("llama", *PROGRAMS) if programs else ("llama",)
    for percent in _run_with_progress(["cmake", "--build", str(binaries), "--target", *targets, "-j", jobs]):
        say(f"  {time.monotonic() - began:5.0f} s  compiled {percent}%")
    result = work / "result"
    for source_path, result_path in RESULT_FILES.items():
        (result / result_path).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (source / source_path).is_dir() else shutil.copyfile
        copy(source / source_path, result / result_path)
    (result / "bindings" / "llama_cpp" / "__init__.py").write_text("")
    collect_libraries(binaries / "bin", result / "lib")
    if programs:
        (result / PROGRAMS_FOLDER).mkdir()
        for name in PROGRAMS:
            shutil.copy2(binaries / "bin" / name, result / PROGRAMS_FOLDER / name)
    (result / BUILT).write_text(json.dumps({"llama-cpp-python": VERSION, "options": options}, indent=1) + "\n")
    say(f"  {time.monotonic() - began:5.0f} s  done")


def _downloaded(work: Path) -> Path:
    """Download the source distribution and check its SHA-256.

    pip downloads it, so that pip's settings (index, proxy, certificates) apply.
    """
    requirement = ["--no-deps", "--no-binary", "llama-cpp-python", f"llama-cpp-python=={VERSION}"]
    _run([sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *requirement, "--dest", str(work)])
    archive = work / f"llama_cpp_python-{VERSION}.tar.gz"
    with archive.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != SHA256:
        raise BuildError(f"{archive.name} has SHA-256 {sha256}, not {SHA256}")
    return archive


def _unpacked(archive: Path, work: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(work, filter="data")
    return work / archive.name.removesuffix(".tar.gz")


def _run(command: list[str]) -> None:
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ran.returncode != 0:
        raise BuildError(f"{' '.join(command[:4])} … failed with code {ran.returncode}:\n{ran.stdout[-3000:]}")


def _run_with_progress(command: list[str]) -> Iterator[int]:
    """Run a build and yield its progress, in percent, every 10 percent."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    reported, tail = 0, ""
    for line in process.stdout:
        tail = (tail + line)[-3000:]
        match = _NINJA_OR_MAKE.match(line)
        if match:
            percent = int(match["percent"] or 100 * int(match["done"]) // int(match["all"]))
            if percent >= reported + 10:
                reported = percent
                yield percent
    if process.wait() != 0:
        raise BuildError(f"{' '.join(command[:2])} failed with code {process.returncode}:\n{tail}")


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder's build."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _folder_of_settings() -> Path:
    from gemtune.settings import Settings

    return Settings.from_environment().llama_cpp


def main() -> int:
    """Build llama.cpp, print its folder and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainer.gguf.llama_cpp_build", description="Build llama.cpp.")
    parser.add_argument("--programs", action="store_true", help=f"also build {', '.join(PROGRAMS)}")
    parser.add_argument("folder", nargs="?", type=Path, help="where to (default: that of the settings)")
    arguments = parser.parse_args()
    folder = _folder_of_settings() if arguments.folder is None else arguments.folder.absolute()
    try:
        print(build(folder, programs=arguments.programs, say=lambda line: print(line, flush=True)))
        if arguments.programs:
            print(f'to run its programs: export PATH="{folder / PROGRAMS_FOLDER}:$PATH"')
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
