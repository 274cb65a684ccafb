"""Kernels that are compiled in parts: each function is typed and lowered once, and machine code is made for whole programs only.

numba makes machine code for every function and, as it inlines across functions, optimises a callee again in each of its callers, and in
theirs: for a chain of kernels the same code twenty times over. Here a kernel called by another one (a part) stops at LLVM code; only
what Python calls (a whole) is linked with all the parts it reaches, optimised, compiled and cached, once. See docs/decisions/0007.

This file reaches into numba's inner classes (dispatcher, code library), as they are in 0.68: try it before a newer version is allowed.
`schemas.jit` is the door to it.
"""

# mypy: disable-error-code="no-untyped-call"
# (the classes of numba this builds on are untyped)

from __future__ import annotations

import gc
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba.core import compiler, types
from numba.core import event as numba_event
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import _FunctionCompiler  # type: ignore[attr-defined]
from numba.core.registry import CPUDispatcher
from numba.core.typing.templates import make_concrete_template

_COLLECT = (200_000, 20, 20)
"""Thresholds of the garbage collector while it compiles: at its usual ones it takes an eighth of the time and finds next to nothing."""


class _Part(JITCodeLibrary):
    """The LLVM code of one kernel as other kernels call it, never compiled by itself.

    numba's passes over single functions have tidied it up (the whole's loops are not vectorised without them); the rest is done to the whole.
    """

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(codegen, name)
        self._linked: Any = None

    def _ensure_finalized(self) -> None:
        """Say nothing is missing: callers may link a part as it is."""

    def add_linking_library(self, library: Any) -> None:
        """Note a callee: another part, or a finished library of numba's own."""
        library._ensure_finalized()
        self._linking_libraries.append(library)

    def _reached(self) -> list[Any]:
        """Return this part and every library it reaches, each once."""
        found: dict[int, Any] = {id(self): self}
        ahead = [self]
        while ahead:
            for library in ahead.pop()._linking_libraries:
                if id(library) not in found:
                    found[id(library)] = library
                    if isinstance(library, _Part):
                        ahead.append(library)
        return list(found.values())

    def _get_module_for_linking(self) -> Any:
        """Return the code of everything reached, in one module in which the part itself is the only function others can call.

        So the optimiser knows every call of every other function: one that is called once is inlined whatever its size, and one that is
        inlined everywhere is dropped.
        """
        if self._linked is None:
            own = {function.name for function in self._final_module.functions if not function.is_declaration}
            whole = self._final_module.clone()
            for library in self._reached():
                if library is not self:
                    code = library._final_module if isinstance(library, _Part) else library._get_module_for_linking()
                    whole.link_in(code, preserve=True)
            for function in whole.functions:
                if not function.is_declaration:
                    # private, not internal: the engine finds internal functions by name, and takes another whole's for this one's
                    inner = function.name.startswith("_ZN") and function.name not in own  # numba looks for its NRT_ functions by name
                    function.linkage = "private" if inner else "linkonce_odr"
            self._linked = whole
        return self._linked


class _Whole(JITCodeLibrary):
    """Machine code of a kernel that Python calls, with everything it reaches."""

    def serialize_using_object_code(self) -> Any:
        """Return what is cached: the machine code, without the LLVM code numba adds to it for callers, as no kernel links to a whole.

        numba reads from the LLVM code which symbols there are, so an empty function stands for each that can be asked for.
        """
        self._ensure_finalized()
        names = ir.Module(self.name)
        names.triple = self._final_module.triple
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == binding.Linkage.external:
                empty = ir.Function(names, ir.FunctionType(ir.VoidType(), ()), function.name)
                ir.IRBuilder(empty.append_basic_block()).ret_void()
        return (self.name, "object", (self._get_compiled_object(), binding.parse_assembly(str(names)).as_bitcode()))


class _Flags(compiler.Flags):
    """numba's flags, compared by what was set: numba looks up every call of its own functions by them, and asks for all thirty each time.

    That was a fifteenth of the time to compile.
    """

    def __hash__(self) -> int:
        return hash(tuple(sorted(self._values)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Flags) and self._values == other._values


class _Compiler(_FunctionCompiler):  # type: ignore[misc]
    """Makes the part of a kernel for given types, and the whole around it."""

    def part(self, args: Any) -> Any:
        """Return numba's result for the part: not executable, its `entry_point` only a key."""
        flags: Any = _Flags()
        self.targetdescr.options.parse_as_flags(flags, self.targetoptions)
        flags.no_cpython_wrapper = flags.no_cfunc_wrapper = flags.no_compile = True
        context = self.targetdescr.target_context
        library = _Part(context.codegen(), self.py_func.__qualname__)
        made = compiler.compile_extra(
            self.targetdescr.typing_context, context, self.py_func, args, None, flags, self.locals, library, self.pipeline_class
        )
        made = made._replace(entry_point=_Key(self.py_func.__qualname__))
        context.insert_user_function(made.entry_point, made.fndesc, [library])
        return made

    def whole(self, part: Any) -> Any:
        """Return numba's result for the kernel as Python calls it."""
        context = part.target_context  # numba's, set to the options of the part
        library = _Whole(context.codegen(), part.library.name)
        library.enable_object_caching()
        with context.push_code_library(library):
            context.create_cpython_wrapper(library, part.fndesc, part.environment, part.call_helper, release_gil=True)
            library.add_linking_library(part.library)
            entry = context.get_executable(library, part.fndesc, part.environment)
        return part._replace(library=library, entry_point=entry)


class _Key:
    """Names a part where numba wants a callable."""

    def __init__(self, name: str) -> None:
        self.name = name


class Kernel(CPUDispatcher):
    """numba's dispatcher, but parts for callers that are kernels, wholes for callers that are not.

    A constant argument makes no part of its own (numba would make one per constant): the optimiser sees it anyway where it inlines.
    """

    def __init__(self, py_func: Any, locals: Any = None, targetoptions: Any = None, pipeline_class: Any = compiler.Compiler) -> None:
        super().__init__(py_func, locals, targetoptions, pipeline_class)
        self._compiler = _Compiler(py_func, self.targetdescr, self.targetoptions, self.locals, pipeline_class)
        self._compiler.compile = self._make_whole
        self.parts: dict[tuple[Any, ...], Any] = {}

    def part(self, args: tuple[Any, ...]) -> Any:
        """Return the part for these types; made at the first call."""
        made = self.parts.get(args)
        if made is None:
            with global_compiler_lock, self._compiling_counter:
                with numba_event.trigger_event("numba:compile", data={"dispatcher": self, "args": args, "return_type": None}):
                    made = self._compiler.part(args)
                self.parts[args] = made
        return made

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """As numba's: what a kernel that calls this one needs to know of it."""
        pysig, args = self._compiler.fold_argument_types(args, kws)
        args = tuple(types.unliteral(arg) for arg in args)
        name = self.py_func.__name__
        template = make_concrete_template(f"CallTemplate({name})", key=name, signatures=[self.part(args).signature])
        return template, pysig, args, {}

    def get_overload(self, sig: Any) -> Any:
        """Return the key of the part."""
        return self.parts[tuple(sig)].entry_point

    @property
    def nopython_signatures(self) -> list[Any]:
        """Return the signatures of the parts."""
        return [part.signature for part in self.parts.values()]

    def _make_whole(self, args: Any, return_type: Any) -> Any:
        before = gc.get_threshold()
        gc.set_threshold(*_COLLECT)
        try:
            return self._compiler.whole(self.part(tuple(args)))
        finally:
            gc.set_threshold(*before)
