/*
 * pause: the process that holds a sandbox's namespaces open.
 *
 * It sleeps in pause(2) and costs nothing. As PID 1 of a shared PID namespace it also reaps the orphans the
 * kernel hands to it. SIGTERM and SIGINT end it with code 0; both need a handler, since the kernel drops
 * signals that PID 1 has not asked for.
 *
 * No libc on the machines we know (a static glibc costs 700 KB and pages in every pod): four system calls
 * and an entry point per architecture. Elsewhere it is built against the C library.
 */

#define TEXT_VERSION "pause (podling) " PAUSE_VERSION "\n"
#define TEXT_NOT_FIRST "pause: warning: not PID 1: orphans of this sandbox go to another process\n"

#if defined(PAUSE_NO_LIBC)

enum { SIG_INT = 2, SIG_TERM = 15, SIG_CHLD = 17 };          /* <asm/signal.h> */
enum { NO_CLD_STOP = 1, RESTART = 0x10000000, RESTORER = 0x04000000 }; /* SA_* */
enum { WAIT_NO_HANG = 1 };                                    /* WNOHANG */

#if defined(__x86_64__)

enum { NR_WRITE = 1, NR_SIGACTION = 13, NR_SIGRETURN = 15, NR_GETPID = 39, NR_WAIT4 = 61, NR_EXIT = 231 };

static long call4(long number, long a, long b, long c, long d)
{
    long result;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}

static void sleep_until_signal(void) { call4(34 /* pause */, 0, 0, 0, 0); }

/* x86_64 has no default way back from a handler: the kernel wants SA_RESTORER. */
void restore(void);
__asm__(".globl restore\nrestore:\n  mov $15, %eax\n  syscall\n");
__asm__(".globl _start\n_start:\n  xor %ebp, %ebp\n  mov %rsp, %rdi\n  and $-16, %rsp\n  call run\n");

#elif defined(__aarch64__)

enum { NR_WRITE = 64, NR_SIGACTION = 134, NR_GETPID = 172, NR_WAIT4 = 260, NR_EXIT = 94 };

static long call4(long number, long a, long b, long c, long d)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
}

/* This architecture has no pause(2); its C library sleeps in ppoll without descriptors, and so do we. */
static void sleep_until_signal(void) { call4(73 /* ppoll */, 0, 0, 0, 0); }

__asm__(".globl _start\n_start:\n  mov x29, #0\n  mov x30, #0\n  mov x0, sp\n  b run\n");

#else
#error "no system call numbers for this architecture: build without PAUSE_NO_LIBC"
#endif

struct kernel_sigaction {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void); /* read only with SA_RESTORER */
    unsigned long mask;
};

static void on_signal(int number, void (*handler)(int))
{
    struct kernel_sigaction action = {.handler = handler, .flags = NO_CLD_STOP | RESTART};
#if defined(__x86_64__)
    action.flags |= RESTORER;
    action.restorer = restore;
#else
    /* asm-generic has the mask where the restorer would be; both are zero. */
#endif
    call4(NR_SIGACTION, number, (long)&action, 0, sizeof(action.mask));
}

static void put(int fd, const char *text, long length) { call4(NR_WRITE, fd, (long)text, length, 0); }
static long own_pid(void) { return call4(NR_GETPID, 0, 0, 0, 0); }
static long reap_one(void) { return call4(NR_WAIT4, -1, 0, WAIT_NO_HANG, 0); }
__attribute__((noreturn)) static void finish(int code)
{
    for (;;)
        call4(NR_EXIT, code, 0, 0, 0);
}

#else /* with the C library */

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIG_INT = SIGINT, SIG_TERM = SIGTERM, SIG_CHLD = SIGCHLD };

static void on_signal(int number, void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_NOCLDSTOP | SA_RESTART};
    sigaction(number, &action, 0);
}

static void put(int fd, const char *text, long length)
{
    if (write(fd, text, length) < 0)
        return;
}
static long own_pid(void) { return getpid(); }
static long reap_one(void) { return waitpid(-1, 0, WNOHANG); }
static void sleep_until_signal(void) { pause(); }
static void finish(int code) { _exit(code); }

#endif

static void on_end(int number)
{
    (void)number;
    finish(0);
}

static void on_child(int number)
{
    (void)number;
    while (reap_one() > 0)
        ;
}

static int sleep_for_ever(int argc, char **argv)
{
    if (argc > 1 && argv[1][0] == '-' && argv[1][1] == 'v') {
        put(1, TEXT_VERSION, sizeof(TEXT_VERSION) - 1);
        return 0;
    }
    on_signal(SIG_INT, on_end);
    on_signal(SIG_TERM, on_end);
    on_signal(SIG_CHLD, on_child);
    if (own_pid() != 1)
        put(2, TEXT_NOT_FIRST, sizeof(TEXT_NOT_FIRST) - 1);
    on_child(0); /* children inherited through exec whose end came before the handler */
    for (;;)
        sleep_until_signal();
}

#if defined(PAUSE_NO_LIBC)
__attribute__((noreturn, used)) void run(long *stack) { finish(sleep_for_ever((int)stack[0], (char **)(stack + 1))); }
#else
int main(int argc, char **argv) { return sleep_for_ever(argc, argv); }
#endif
