/*
 * launch: makes the system calls it is given, one after the other, the last of them an execve.
 *
 * What pause needs of an OCI runtime are some ninety system calls whose arguments are known beforehand: join a
 * namespace, fork into new ones, change the root, give up every right, execute. The runtime writes them down
 * (`podling.runtime.launch_script`) in a memory file, and starts us with it as descriptor 3. We map it, so the
 * addresses in it are what they say, and report in it.
 *
 * Freestanding like pause, for the same reason: a static C library costs more than all we do.
 */

enum { SCRIPT_FD = 3, SCRIPT_BYTES = 1 << 16 };
#define SCRIPT_ADDRESS 0x20000000L /* free in a program that is neither relocated nor large */

enum {
    TAKES_RESULT = 0x3f, /* bit N: argument N is the result that was kept last */
    KEEPS_RESULT = 1 << 8,
    MAY_FAIL = 1 << 9,
    FORKS = 1 << 10, /* a clone: the child goes on with the script, the parent ends */
};

struct step {
    long number;
    long flags;
    long argument[6];
};

struct script {
    long count;
    long child;  /* out: PID of what was forked, as the caller sees it */
    long failed; /* out: number of the step that failed, from 1 */
    long error;  /* out: its -errno */
    struct step step[];
};

#if defined(PAUSE_NO_LIBC)

#if defined(__x86_64__)

enum { NR_MMAP = 9, NR_EXIT = 231 };

static long call6(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

__asm__(".globl _start\n_start:\n  xor %ebp, %ebp\n  and $-16, %rsp\n  call run\n");

#elif defined(__aarch64__)

enum { NR_MMAP = 222, NR_EXIT = 94 };

static long call6(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}

__asm__(".globl _start\n_start:\n  mov x29, #0\n  mov x30, #0\n  b run\n");

#endif

__attribute__((noreturn)) static void finish(int code)
{
    for (;;)
        call6(NR_EXIT, code, 0, 0, 0, 0, 0);
}

/* <sys/mman.h>: PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE */
static long map_script(void)
{
    return call6(NR_MMAP, SCRIPT_ADDRESS, SCRIPT_BYTES, 3, 0x01 | 0x100000, SCRIPT_FD, 0);
}

static void play(struct script *script)
{
    long kept = 0;
    for (long i = 0; i < script->count; i++) {
        struct step *step = &script->step[i];
        long *a = step->argument;
        for (int n = 0; n < 6; n++)
            if (step->flags & TAKES_RESULT & (1 << n))
                a[n] = kept;
        long result = call6(step->number, a[0], a[1], a[2], a[3], a[4], a[5]);
        if (result < 0 && result > -4096 && !(step->flags & MAY_FAIL)) {
            script->error = result;
            script->failed = i + 1;
            finish(1);
        }
        if (step->flags & KEEPS_RESULT)
            kept = result;
        /* The clone asks for CLONE_VFORK: by now the child has executed its program, or failed and said so. */
        if (step->flags & FORKS && result > 0) {
            script->child = result;
            finish(script->failed != 0);
        }
    }
}

__attribute__((noreturn, used)) void run(void)
{
    if (map_script() == SCRIPT_ADDRESS)
        play((struct script *)SCRIPT_ADDRESS);
    finish(2);
}

#else
#error "no system calls known for this architecture: there an OCI runtime starts pause"
#endif
