/* Shows a process what AMX is like, on virtual machines that have AMX and hide CPUID leaf 0x1D.
 *
 * oneDNN takes the tiles' sizes from that leaf, and ends the process with an illegal instruction where it reads zero. Peers whose
 * bf16 had to do without AMX for that would look ten times slower than they are. So CPUID is made to fault in this process
 * (arch_prctl, no privilege needed), and the handler answers with what the CPU says plus the leaves that are missing, as the
 * first CPUs with AMX have them. Nothing outside the process changes. Loaded with LD_PRELOAD; does nothing where nothing is hidden.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define LEAF_FEATURES 7
#define LEAF_PALETTES 0x1d
#define LEAF_TMUL 0x1e
#define AMX_TILE (1u << 24)

static void answer(int number, siginfo_t *info, void *context) {
    (void)info;
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *at = (const unsigned char *)r[REG_RIP];
    if (at[0] != 0x0f || at[1] != 0xa2) {
        signal(number, SIG_DFL); /* a fault of its own: it happens again, and ends the process */
        return;
    }
    unsigned leaf = (unsigned)r[REG_RAX], part = (unsigned)r[REG_RCX], a, b, c, d;
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    __cpuid_count(leaf, part, a, b, c, d);
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    if (leaf == 0 && a < LEAF_TMUL) a = LEAF_TMUL;
    if (leaf == LEAF_PALETTES && part == 0) a = 1, b = c = d = 0;
    if (leaf == LEAF_PALETTES && part == 1) a = 1024u << 16 | 8192u, b = 8u << 16 | 64u, c = 16, d = 0;
    if (leaf == LEAF_TMUL && part == 0) a = 0, b = 64u << 8 | 16u, c = d = 0;
    r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
    r[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
    unsigned a, b, c, d, most;
    __cpuid(0, most, b, c, d);
    __cpuid_count(LEAF_FEATURES, 0, a, b, c, d);
    if (!(d & AMX_TILE)) return;
    __cpuid_count(LEAF_PALETTES, 0, a, b, c, d);
    if (most >= LEAF_PALETTES && a != 0) return;
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
}
