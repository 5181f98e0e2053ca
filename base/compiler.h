#ifndef CVY_COMPILER_H
#define CVY_COMPILER_H

/* The only home of compiler extensions; every macro is empty or plain C11 on a compiler without. */

#if defined(__GNUC__)
#define CVY_PRINTF(format_idx, args_idx) __attribute__((format(printf, format_idx, args_idx)))
#define CVY_NORETURN                     __attribute__((noreturn))
#define CVY_NODISCARD                    __attribute__((warn_unused_result))
#define CVY_LIKELY(x)                    __builtin_expect(!!(x), 1)
#define CVY_UNLIKELY(x)                  __builtin_expect(!!(x), 0)
#else
#define CVY_PRINTF(format_idx, args_idx)
#define CVY_NORETURN
#define CVY_NODISCARD
#define CVY_LIKELY(x)   (x)
#define CVY_UNLIKELY(x) (x)
#endif

/** Makes a typedef of float a vector of so many bytes: typedef float lanes CVY_VECTOR(32); without
 *  support it stays one float. The loose one may lie at any float and alias other types. */
#if defined(__GNUC__)
#define CVY_VECTOR(size_bytes)       __attribute__((vector_size(size_bytes)))
#define CVY_VECTOR_LOOSE(size_bytes) __attribute__((vector_size(size_bytes), aligned(4), may_alias))
#else
#define CVY_VECTOR(size_bytes)
#define CVY_VECTOR_LOOSE(size_bytes)
#endif

/** Some elements of two vectors, by constant numbers that count on from the first to the second. */
#if defined(__GNUC__)
#define CVY_VECTOR_PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#error "needs GCC 12 or clang 14: vectors are GCC's extension"
#endif

/** The elements of a vector in another order; order: a vector of integers, which elements. Not
 *  defined where the compiler has none. */
#if defined(__GNUC__) && !defined(__clang__)
#define CVY_VECTOR_SHUFFLE(vector, order) __builtin_shuffle(vector, order)
#endif

/** A function whose body the caller gets whatever its size, so that constant arguments unroll its
 *  loops; and a loop of constant count that is laid out flat. */
#if defined(__GNUC__)
#define CVY_INLINE_ALWAYS static inline __attribute__((always_inline))
#define CVY_UNROLL(n)     CVY_PRAGMA(GCC unroll n)
#define CVY_PRAGMA(text)  _Pragma(#text)
#else
#define CVY_INLINE_ALWAYS static inline
#define CVY_UNROLL(n)
#endif

/** Keeps a vector that was loaded in its register: else the compiler may load it anew for every
 * use.
 */
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define CVY_KEEP_VECTOR(v) __asm__("" : "+v"(v))
#else
#define CVY_KEEP_VECTOR(v) ((void)0)
#endif

/** Fetches the cache line of an address that will be read, or written, soon: into the second level,
 *  or NEAR, into the first. */
#if defined(__GNUC__)
#define CVY_PREFETCH_READ(address)  __builtin_prefetch(address, 0, 2)
#define CVY_PREFETCH_NEAR(address)  __builtin_prefetch(address, 0, 3)
#define CVY_PREFETCH_WRITE(address) __builtin_prefetch(address, 1, 2)
#else
#define CVY_PREFETCH_READ(address)  ((void)(address))
#define CVY_PREFETCH_NEAR(address)  ((void)(address))
#define CVY_PREFETCH_WRITE(address) ((void)(address))
#endif

/** Tells the processor that this is a loop that waits for another thread's store. */
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define CVY_CPU_RELAX() __builtin_ia32_pause()
#elif defined(__GNUC__) && defined(__aarch64__)
#define CVY_CPU_RELAX() __asm__ volatile("yield")
#else
#define CVY_CPU_RELAX() ((void)0)
#endif

/** Bytes to which every tensor and flat buffer is aligned: a cache line, and an AVX-512 vector. */
#define CVY_ALIGN_BYTES 64

#endif
