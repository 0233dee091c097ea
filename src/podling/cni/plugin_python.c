/*
 * plugin-python: the Python our CNI plugins are executed by, begun only half.
 *
 * Python starts in two phases. The first makes a working interpreter, with what is compiled into it; the second
 * looks for the standard library, imports from it what codecs and files need, and opens sys.stdin and its kin:
 * 3 of 7 ms. A plugin brings its modules along (`podling.cni.bundle`) and reads and writes descriptors, so
 * we leave the second phase out, until it is needed: when a module is imported that is not compiled in and that
 * the bundle does not have, when a codec is looked up, when `open` is called, or when `finish` is.
 *
 * Called as `plugin-python -IS SCRIPT [ARGUMENT...]`. With other arguments, or when Python cannot be begun like
 * this, we become the interpreter itself (PYTHON), with the same arguments. Multi-phase initialisation is
 * "provisional" in Python's documentation: `podling.cni.launcher` tries what it has compiled, and does without
 * when it does not work.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { SCRIPT_BYTES = 1 << 16 };

static char script[SCRIPT_BYTES];

static enum { BEGUN, FINISHING, FINISHED } phase = BEGUN;

/* The second phase. It makes a sys.path of its own; what ours had comes behind. */
static PyObject *finish(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    if (phase != BEGUN) /* FINISHING: it imports modules, as which finder we are asked */
        Py_RETURN_NONE;
    phase = FINISHING;
    PyObject *ours = PySys_GetObject("path");
    Py_XINCREF(ours);
    PyStatus status = _Py_InitializeMain();
    if (PyStatus_Exception(status)) {
        PyErr_Format(PyExc_RuntimeError, "Python cannot be started: %s", status.err_msg ? status.err_msg : "");
        return NULL;
    }
    phase = FINISHED;
    PyObject *path = PySys_GetObject("path");
    if (ours != NULL && path != NULL && path != ours) {
        Py_ssize_t end = PyList_GET_SIZE(path);
        if (PyList_SetSlice(path, end, end, ours) < 0)
            return NULL;
    }
    Py_XDECREF(ours);
    Py_RETURN_NONE;
}

/* We are on sys.meta_path, behind the finders of what is compiled in: who gets here needs the real ones, which
   the second phase puts behind us. */
static PyObject *find_spec(PyObject *self, PyObject *arguments)
{
    (void)arguments;
    return finish(self, NULL);
}

/* The first function that looks for codecs, the package `encodings` having been kept from that (`furnish`). */
static PyObject *find_codec(PyObject *self, PyObject *name)
{
    PyObject *done = finish(self, NULL), *codecs, *codec;
    if (done == NULL)
        return NULL;
    Py_DECREF(done);
    if ((codecs = PyImport_ImportModule("encodings")) == NULL)
        return NULL;
    codec = PyObject_CallMethod(codecs, "search_function", "O", name);
    Py_DECREF(codecs);
    return codec;
}

/* The builtin until the second phase puts the real one in its place. */
static PyObject *open_file(PyObject *self, PyObject *arguments, PyObject *keywords)
{
    PyObject *done = finish(self, NULL);
    if (done == NULL)
        return NULL;
    Py_DECREF(done);
    PyObject *real = PyDict_GetItemString(PyEval_GetBuiltins(), "open");
    if (real == NULL)
        return PyErr_Format(PyExc_NameError, "name 'open' is not defined");
    return PyObject_Call(real, arguments, keywords);
}

/* As `os.setns` of Python 3.12. */
static PyObject *set_namespace(PyObject *self, PyObject *arguments)
{
    int fd, type;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "ii", &fd, &type))
        return NULL;
    if (setns(fd, type) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"finish", finish, METH_NOARGS, "Carry out the second phase, unless that has happened."},
    {"find_spec", find_spec, METH_VARARGS, NULL},
    {"find_codec", find_codec, METH_O, NULL},
    {"open", (PyCFunction)(void (*)(void))open_file, METH_VARARGS | METH_KEYWORDS, NULL},
    {"setns", set_namespace, METH_VARARGS, "Move the calling thread into the namespace behind a descriptor."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_plugin_python", .m_size = -1, .m_methods = functions,
};

static PyObject *make_module(void)
{
    return PyModule_Create(&definition);
}

static int read_script(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t size = read(fd, script, SCRIPT_BYTES - 1);
    close(fd);
    return size > 0 && size < SCRIPT_BYTES - 1;
}

/* The first phase. What the second would do to signals, programs that are written to expect. */
static int begin(int argc, char **argv)
{
    PyPreConfig before;
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;
    if (PyStatus_Exception(Py_PreInitialize(&before)) ||
        PyImport_AppendInittab("_plugin_python", make_module) < 0)
        return 0;
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    config.install_signal_handlers = 1;
    config._init_main = 0;
    int failed = PyStatus_Exception(PyConfig_SetBytesString(&config, &config.program_name, PYTHON)) ||
                 PyStatus_Exception(PyConfig_SetBytesArgv(&config, argc - 2, argv + 2)) ||
                 PyStatus_Exception(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);
    signal(SIGPIPE, SIG_IGN);
    return !failed;
}

/* The registry of codecs begins by importing `encodings`. That would ask for the second phase, which cannot begin
   while it is asked for codecs; so for this moment any module is `encodings`. */
static int register_codecs(PyObject *module)
{
    PyObject *modules = PyImport_GetModuleDict();
    return PyDict_SetItemString(modules, "encodings", module) == 0 &&
           PyCodec_Register(PyObject_GetAttrString(module, "find_codec")) == 0 &&
           PyDict_DelItemString(modules, "encodings") == 0;
}

/* What the script finds in `sys`, and the places from which the second phase is asked for. */
static int furnish(int argc, char **argv)
{
    PyObject *arguments = PyList_New(0), *path = PyList_New(0);
    PyObject *module = PyImport_ImportModule("_plugin_python");
    PyObject *finders = PySys_GetObject("meta_path"), *builtins = PyEval_GetBuiltins();
    if (arguments == NULL || path == NULL || module == NULL || finders == NULL || builtins == NULL)
        return 0;
    for (int i = 2; i < argc; i++) {
        PyObject *text = PyUnicode_DecodeUTF8(argv[i], (Py_ssize_t)strlen(argv[i]), "surrogateescape");
        if (text == NULL || PyList_Append(arguments, text) < 0)
            return 0;
    }
    return PySys_SetObject("argv", arguments) == 0 && PySys_SetObject("path", path) == 0 &&
           register_codecs(module) && PyList_Append(finders, module) == 0 &&
           PyDict_SetItemString(builtins, "open", PyObject_GetAttrString(module, "open")) == 0;
}

static int run(const char *path)
{
    PyObject *names = PyDict_New(), *code = Py_CompileString(script, path, Py_file_input);
    if (names == NULL || code == NULL)
        return 0;
    PyDict_SetItemString(names, "__builtins__", PyEval_GetBuiltins());
    PyDict_SetItemString(names, "__name__", PyUnicode_FromString("__main__"));
    return PyEval_EvalCode(code, names, names) != NULL;
}

int main(int argc, char **argv)
{
    if (argc >= 3 && strcmp(argv[1], "-IS") == 0 && read_script(argv[2]) && begin(argc, argv)) {
        if (furnish(argc, argv) && run(argv[2]))
            return phase == FINISHED ? Py_FinalizeEx() != 0 : 0;
        PyErr_Print(); /* which ends us by itself if it is a SystemExit */
        return 1;
    }
    argv[0] = PYTHON;
    execv(PYTHON, argv);
    return 127;
}
