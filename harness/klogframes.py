# SPDX-License-Identifier: GPL-2.0-only
"""Stack traces in kernel logs: what is a frame, and which frame is to blame.

Two kinds of knowledge live here. *Form*: how each architecture and age of the kernel prints a
frame or a program counter. *Guilt*: which functions stand in so many stacks that they say nothing
(allocators, lock primitives, string functions, the reporting machinery itself); the first frame
that is none of them names the report.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# A C identifier with the compiler's suffixes, or a Rust path ("<a::B as c::D>::e").
_C_NAME = r"[A-Za-z_][\w.$]{0,200}"
_RUST_NAME = r"(?:<[A-Za-z_&][^\n+]{1,240}>|[A-Za-z_]\w{0,100})(?:::[\w<>{}#]{1,100}){1,12}"
_OFFSET = r"\+0x[0-9a-f]{1,8}(?:/0x[0-9a-f]{1,8})?"
NAME = rf"(?:{_RUST_NAME}|{_C_NAME})"
FUNC = rf"(?P<func>{NAME}){_OFFSET}"

# "[<ffffffff81234567>] ", "[<     inline     >] ", ppc's "[c0000000012] [c000..] ", riscv's too.
_ADDR = r"(?:\(?\[<?\s{0,8}(?:[0-9a-f]{6,16}|inline)\s{0,8}>?\]\)?[ :]{0,3}){0,2}"
_FRAME = re.compile(
    rf"^\s{{0,16}}(?:#\d{{1,3}}:?\s)?{_ADDR}(?P<weak>\? ?)?"
    rf"(?:(?:{FUNC})|(?P<bare>0x[0-9a-f]{{1,16}}|[0-9a-f]{{8,16}})(?=$|\s))"
    r"(?P<rest>.{0,200})"
)
# After symbolisation: "  func file.c:12 [inline]".
_INLINE = re.compile(
    rf"^\s{{0,16}}(?:\[<\s*inline\s*>\]\s*)?(?P<func>{NAME}) (?P<file>[\w./+-]+):\d+ ?(?P<i>\[inline\])?"
)
# 32-bit ARM: "(caller) from (callee's caller)"; each line names the frame and its caller.
_FROM = re.compile(
    rf"^\s{{0,16}}(?:\[<[0-9a-f]{{6,16}}>\] )?\(?(?P<func>{NAME})(?:{_OFFSET})?(?: \[\w+\])?\)? from "
    rf"(?:\[<[0-9a-f]{{6,16}}>\] )?\(?(?P<caller>{NAME}){_OFFSET}"
)
_MODULE = re.compile(r"\[(?P<module>[A-Za-z_][\w-]{0,60})[^\]\n]{0,40}\]")
# Program counters: x86 old and new, ARM, arm64, powerpc, riscv, s390, MIPS.
_PC = re.compile(
    r"^\s{0,8}(?:(?:[RE]?IP|EIP): |(?:PC|pc) is at |(?:pc|epc|era) : |NIP )"
    r"(?:(?:[0-9a-f]{4}:)?(?P<val>.{0,300}))"
)
_PSW = re.compile(r"^\s{0,8}Krnl PSW : [0-9a-f]{16} [0-9a-f]{16} \((?P<val>[^)]{1,200})\)")
_USER_PC = re.compile(r"^\s{0,8}RIP: (?:0033|0023|002b):|^\s{0,8}EIP: 00(?:73|23):")
_PC_FUNC = re.compile(rf"^\s*{_ADDR}(?:\[<[0-9a-f]+>\]\s*)?(?P<func>{NAME}){_OFFSET}")
_PC_BARE = re.compile(
    r"^\s*(?:\[<(?P<a>[0-9a-f]+)>\]\s*)?(?:\[<[0-9a-f]+>\]\s*)?"
    r"(?:(?P<b>0x[0-9a-f]+)|\(null\)|(?P<c>[0-9a-f]{8,16})|$)"
)

_TRACE_START = re.compile(
    r"(?:^|[ :])(?:Call [Tt]race|Backtrace|Call Backtrace|stack backtrace|backtrace|Trace|"
    r"Krnl Stack|Stack trace|Call Trace)\s{0,2}(?::|\(|$)"
)
# Marks between frames that do not end a stack.
_MARK = re.compile(
    r"^\s{0,16}(?:</?(?:IRQ|EOI|NMI|EOE|TASK|SOFTIRQ|UNK|#\w{1,4}|ENTRY_TRAMPOLINE)>|"
    r"<<(?:EOE|NMI|IRQ)>>|-{3,} ?.{0,20}|Exception stack|\[\.{3}\]|={0,3}$)"
)

_SUFFIX = re.compile(
    r"\.(?:isra|constprop|part|cold|llvm|lto_priv|clone|unlikely|warm|kcfi|cfi|resume|destroy)\b"
    r"(?:\.\d+)*.*$|\.\d+$|\$[\w.]*$"
)
_SYSCALL_ARCH = re.compile(
    r"^__(?:x64|x32|ia32|arm64|riscv|s390x?|arm|powerpc)_(?P<name>(?:compat_)?sys_\w+)$"
)
_SYSCALL_BODY = re.compile(
    r"^(?:__(?:do|se)_(?:compat_)?sys_|(?:compat_|C_)?S[yY]S[C]?_|compat_S[yY]S_)(?P<name>\w+)$"
)
# One mechanism under several names, by age or flavour of the kernel.
_FAMILIES = (
    (re.compile(r"^smp_call_function_\w+$"), "smp_call_function"),
    (re.compile(r"^synchronize_(?:rcu_\w+|sched(?:_\w+)?)$"), "synchronize_rcu"),
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a stack, or a program counter."""

    #: Function without compiler suffixes; None for a bare address.
    func: str | None
    #: False for x86's "? func", a leftover on the stack.
    reliable: bool = True
    module: str | None = None
    #: The bare address, lower-case hex without 0x, where no function is known.
    addr: str | None = None


def strip_suffix(func: str) -> str:
    """``foo.isra.0.cold`` -> ``foo``: what the compiler appended says nothing of the bug."""
    if func.startswith("__pfx_"):
        func = func[6:]
    return _SUFFIX.sub("", func) or func


def simplify(func: str) -> tuple[str, tuple[str, ...]]:
    """The name that a title uses for a function, and the others under which it is known."""
    func = strip_suffix(func)
    arch = _SYSCALL_ARCH.match(func)
    if arch is not None:
        return arch["name"], (func,)
    body = _SYSCALL_BODY.match(func)
    if body is not None:
        return body["name"], (func, f"sys_{body['name']}")
    for pattern, name in _FAMILIES:
        if pattern.match(func):
            return name, (func,)
    return func, ()


def parse_frame(text: str) -> tuple[Frame, ...]:
    """The frames that a line of a stack holds: none, one, or two on 32-bit ARM."""
    if " from " in text:
        arm = _FROM.match(text)
        if arm is not None:
            return (Frame(strip_suffix(arm["func"])), Frame(strip_suffix(arm["caller"])))
    match = _FRAME.match(text)
    if match is not None:
        func = match["func"]
        module = _MODULE.search(match["rest"])
        return (
            Frame(
                strip_suffix(func) if func else None,
                reliable=not match["weak"] and "(unreliable)" not in match["rest"],
                module=module["module"] if module and module["module"] != "inline" else None,
                addr=match["bare"].removeprefix("0x") if match["bare"] else None,
            ),
        )
    match = _INLINE.match(text)
    if match is not None:
        return (Frame(strip_suffix(match["func"])),)
    return ()


def is_mark(text: str) -> bool:
    """A line inside a stack that is no frame and does not end it."""
    return _MARK.match(text) is not None


def is_trace_start(text: str) -> bool:
    """``Call Trace:`` in its spellings."""
    return _TRACE_START.search(text) is not None


def parse_pc(text: str) -> Frame | None:
    """The program counter of a register dump, unless it is a user-space one."""
    match = _PC.match(text) or _PSW.match(text)
    if match is None or _USER_PC.match(text):
        return None
    value = match["val"]
    func = _PC_FUNC.match(value)
    if func is not None:
        module = _MODULE.search(value[func.end() :])
        return Frame(strip_suffix(func["func"]), module=module["module"] if module else None)
    bare = _PC_BARE.match(value)
    if bare is None:
        return None
    addr = bare["b"] or bare["a"] or bare["c"] or "0"
    return Frame(None, addr=addr.removeprefix("0x").lower())


def names(table: str) -> re.Pattern[str]:
    """Whole-name pattern from a table: expressions separated by blanks, ``#`` comments."""
    rows = [row for line in table.splitlines() if line[:1] != "#" for row in line.split()]
    return re.compile("^(?:" + "|".join(rows) + ")$")


# Functions that never are to blame, by what they belong to. A row is a full match.
GENERIC = names(
    r"""
# the reporting machinery
_?dump_stack(?:_lvl|_print_info)? show_stack(?:_log_lvl)? show_trace\w* dump_backtrace(?:_\w+)?
show_regs\w* dump_trace unwind_backtrace walk_stackframe _?v?printk(?:_\w+)? n?panic(?:_\w+)?
vpanic __warn(?:_\w+)? warn_slowpath\w* report_bug\w* fixup_bug\w* handle_bug nmi_panic
print_(?:report|address_\w+|usage_bug|circular_\w+|deadlock_\w+|bad_\w+|irq_\w+|unlock_\w+|lock_\w+|freed_\w+|collision|trailer|kernel_\w+|track\w*|object\w*|section|error_description|mem\w*)
oops_\w+ die(?:_\w+)? __die\w* bust_spinlocks fortify_panic __fortify_\w+ __stack_chk_fail\w*
assertfail __bug\w* bug_handler brk_handler check_panic_on_warn object_err slab_err\w* slab_bug
slab_fix print_trailer __schedule_bug debug_smp_processor_id check_preemption_disabled
__this_cpu_preempt_check __?might_(?:sleep|resched|fault)\w* ___might_sleep
__cant_(?:sleep|migrate)\w* bad_page(?:_\w+)? dump_page(?:_\w+)? __dump_page free_pages_prepare\w*
free_page_is_bad\w* check_(?:new|free)_page\w* _?__ubsan_\w+ ubsan_\w+ val_to_string
handle_overflow handle_object_size_mismatch ftrace_\w+_caller trace_hardirqs_\w+
trace_softirqs_\w+ save_trace save_stack\w* stack_trace_\w+ arch_stack_walk\w* stack_depot_\w+
__stack_depot_\w+ ref_tracker_\w+ __ref_tracker\w* warn_\w+ skb_(?:over_|under_)?panic
__x86_\w+thunk\w* __x86_return_\w+ retpoline_\w+ srso_\w+ rust_helper_\w+
# exceptions and their entry
do_(?:invalid_op|error_trap|trap(?:_\w+)?|general_protection|int3|divide_error|double_fault|bug\w*|page_fault|kern_addr_fault|DataAbort|PrefetchAbort|translation_fault|mem_abort|debug_exception|tag_\w+|sect_fault|sp_pc_abort|undefinstr|und_fault|alignment|bad|kernel_fault|user_addr_fault|bad_\w+|el1\w*|el0_\w+|sea|notify_resume_stub|address_error|cp_fault|trap_\w+|ade|be)
__do_(?:page_fault|kernel_fault|user_fault) no_context bad_area\w* __bad_area\w* page_fault_oops
kernelmode_fixup_or_oops async_page_fault (?:asm_)?exc_\w+ __?exc_\w+
(?:async_|double_|page_)?page_fault invalid_op general_protection divide_error
error_(?:entry|code|exit) handle_exception el1[th]?_\w+ el1h?_\d+_\w+ die_kernel_fault
mm_fault_error spurious_\w+ handle_stack_overflow __bad_stack call_on_stack\w* ret_from_exception
__dabt_\w+ __pabt_\w+ __und_\w+ vector_\w+ machine_check\w* stack_segment arm_notify_die
baddataabort \w*stack_overflow\w* (?:asm_)?sysvec_\w+ bad_mode do_bad_area
common_(?:interrupt|exception)\w*
# sanitizers
_{0,2}kasan_\w+ _{2,3}asan_\w+ _{2,3}hwasan_\w+ kasan_\w+ check_memory_region\w* memory_is_\w+
bytes_is_\w+ end_report start_report describe_\w+ object_is_\w+ quarantine_\w+ poison_\w+
set_track bug_type\w* get_\w+_bug_type kcsan_\w+ __tsan_\w+ __csan\w* find_watchpoint
set_report_info kmsan_\w+ __msan_\w+ kfence_\w+ __kfence_\w+ __sanitizer_\w+ write_comp_data
check_kcov_mode in_softirq_really __kcsan_\w+ check_access check_region_inline tag_check_\w+
hw_tags\w*
# strings and memory
_{0,2}(?:x86_)?(?:mem(?:cpy|move|set\w*|cmp|chr(?:_inv)?|scan|zero|dup\w*)|str(?:n?cpy|scpy\w*|n?cmp|n?casecmp|n?len|n?chr\w*|rchr|n?cat|lcpy|lcat|str|nstr|pbrk|n?dup\w*|sep|spn|cspn|im|size))(?:_\w+|32|64)?
__pi_\w+ clear_page\w* copy_page(?:_erms|_rep)? __arch_copy_\w+ raw_copy_\w+ v?s?n?c?printf
v?snprintf vs?c?nprintf kv?asprintf\w* string(?:_nocheck)? format_decode number pointer
b(?:cmp|itmap_\w+) _?find_(?:next|first|last)_\w*bit\w* hex_dump_to_buffer
(?:_|__)?copy_(?:from|to|in)_(?:user|iter|kernel)\w* _?copy_(?:from|to)_(?:user|iter)\w*
copy_user_\w+ copyin\w* copyout\w* copy_(?:to|from)_\w+_nofault __(?:get|put)_user\w*
(?:get|put)_user\w* probe_kernel_\w+ __probe_kernel\w* __check_(?:object_size|heap_object)
check_(?:heap|stack|kernel_text|bogus)_\w+ usercopy_\w+ strict_\w+_iter instrument_\w+
fault_in_\w+ iov_iter_\w+ _?csum_\w+ rep_(?:movs|stos)\w* jhash\w* __jhash\w* hash_\w+bits?
siphash\w* crc\w*le\w* get_unaligned\w* put_unaligned\w* __fswab\w* __swab\w*
# allocators
_{0,3}k[mvz]*alloc\w* __do_kmalloc\w* do_slab_free _{0,2}kv?z?free\w* kfree_\w+ kvfree\w*
_{0,2}kmem_cache_(?:alloc|free|shrink|shutdown|destroy_\w+)\w*
_{0,3}slab_(?:alloc|free|post_alloc|pre_alloc|out_of|pad|debug)\w*
_{0,2}cache_(?:free|alloc|from)\w* _{0,3}cache_\w*free\w* slub_\w+
free_(?:debug|to_partial|consistency)\w* alloc_debug\w* new_slab\w* allocate_slab alloc_slab\w*
__?new_slab get_partial\w* get_from_\w+ krealloc\w* __do_krealloc kmemdup\w* kstrdup\w* memdup\w*
free_large_kmalloc kmalloc_\w+ large_kmalloc\w* kmemleak_\w+
(?:__)?(?:get_free|alloc_pages|free_pages)\w* alloc_pages?(?:_\w+)? __alloc_(?:pages|frozen)\w*
alloc_frozen\w* get_page_from_freelist prep_new_page post_alloc_hook rmqueue\w* __rmqueue\w*
free_(?:unref|the|hot_cold|one|pcppages|frozen)_?\w* __free_(?:pages|one|frozen)\w* put_page
__put_page __folio_put\w* folio_put check_slab check_object check_bytes_and_report init_object
on_freelist verify_mem_\w+ list_slab_objects free_partial cache_grow\w* fallback_alloc
__?vmalloc\w* __?v(?:free|zalloc|realloc)\w* vmap_\w+_range\w* should_fail\w* fail_dump
__?should_fail\w* memalloc_\w+ alloc_percpu\w* pcpu_alloc\w* __alloc_percpu\w* mempool_alloc\w*
kmem_cache_(?:zalloc|node)\w* kzalloc\w* qlink_free
# helpers of the VFS, the page cache, the network core and the driver core: called with an
# object that belongs to somebody else
iput(?:_final)? ihold (?:drop|inc|clear|set)_nlink mark_buffer_\w+ __?brelse folio_(?:un)?lock
(?:un)?lock_page folio_(?:end|start|mark|wait|get|put|test|set|clear)_\w+ end_page_\w+
find_(?:lock|get)_\w+ truncate_inode_pages\w* pagevec_\w+ copy_(?:page|folio)_(?:to|from)_iter\w*
skb_(?:put|push|pull|release_\w+|copy_bits|free_head|trim|unlink|dequeue\w*|queue_\w+)
__skb_(?:put|pull|unlink|queue_\w+|dequeue\w*) sk_skb_reason_drop _{0,2}kfree_skb\w*
_{0,2}netif_receive_skb\w* netif_receive_skb\w* kobject_\w+ kset_\w+
device_(?:add|del|register|unregister|create|destroy|initialize)\w* add_uevent_var dev_uevent
bus_(?:add|remove)_device (?:get|put)_device device_(?:release|private_\w+) klist_\w+
_{0,2}wake_up\w* try_to_wake_up complete(?:_all)? swake_up_\w+
kthread_(?:stop|unpark|park|should_\w+) kill_fasync _{0,2}sk_free __fput_sync_never
# lists, trees, counters, bits
_{0,2}list_(?:add|del|move|replace|splice|empty|cut|swap|is_\w+|rotate)\w* __hlist_\w+ hlist_\w+
__list_\w+ plist_\w+ llist_\w+
_{0,3}rb_(?:erase|insert|next|prev|first|last|replace|add|find|link)\w* __rb_\w+ refcount_\w+
__refcount_\w+ _?atomic(?:64|_long)?_\w+ raw_atomic\w* arch_atomic\w*
(?:__)?(?:test|set|clear|change)_(?:and_\w+_)?bit\w* arch_\w*(?:test|set|clear)_bit\w*
_?test_bit\w* __?xchg\w* __?cmpxchg\w* kref_\w+ __read_once_size\w* __write_once_size\w*
READ_ONCE\w* __(?:read|write)_once\w* read_word_at_a_time
rcu_(?:read_\w+|dereference\w*|lock_\w+|is_\w+) __rcu_(?:dereference|access)\w* xas_\w+ xa_\w+
__xa_\w+ radix_tree_(?:lookup|next|insert|delete|iter|deref|load)\w* __radix_tree_\w+ idr_\w+
ida_\w+ mt_\w+ mas_\w+ mtree_\w+
# locks
_{0,3}(?:raw_)?(?:spin|read|write)_(?:lock|unlock|trylock|rt_lock|rt_unlock)\w* do_raw_\w+
_raw_\w+ __raw_\w+ (?:native_)?queued_\w+ pv_\w+ __pv_\w+ osq_\w+ _{0,2}mutex_\w+ __mutex_\w+
ww_mutex\w* __ww_\w+ rt_mutex\w* __rt_mutex\w* rtlock_\w+ down(?:_\w+)? up(?:_(?:read|write))?
__down\w* ___down\w* __up(?:_\w+)? rwsem_\w+ _{0,2}rwsem\w* call_rwsem_\w+
lock_(?:acquire|release|downgrade|is_held|acquired|contended|map_\w+|set_\w+)\w* __lock_\w+
_{0,2}lockdep_\w+ lockdep_\w+
check_(?:prev|prevs|noncircular|deadlock|irq_usage|usage|wait_context|no_locks|flags|lock|nested|path|cycle|unlock)_?\w*
validate_chain mark_lock\w* mark_usage mark_held_\w+ register_lock_class assign_lock_key
match_held_lock look_up_lock_class _{0,2}task_rq_lock \w+_(?:read_|write_)lock find_held_lock
debug_(?:lock|mutex|rt_mutex|spin|locks|check_no_\w+|object\w*|work\w*|timer\w*|hrtimer\w*|print\w*|deactivate|activate|rcu_\w+)\w*
__debug_\w+ spin_(?:bug|dump|lock|unlock)\w* rwlock_bug seq(?:count|lock)_\w+ read_seq\w*
percpu_(?:down|up|rwsem|ref)_?\w* __percpu_(?:down|up|rwsem)\w* usage_match valid_state
print_usage_bug perf_trace_lock\w* trace_lock\w* trace_event_raw_event_lock\w* __trace_lock\w*
__?bit_spin_\w+ prepare_lock_switch finish_lock_switch local_bh_\w+ __local_bh_\w+
preempt_(?:count|schedule)\w* __preempt_\w+
"""
)


def guilty(frames: Sequence[Frame], *skips: re.Pattern[str]) -> Frame | None:
    """The first reliable, named frame that none of ``skips`` matches; None if there is none."""
    for frame in frames:
        if frame.reliable and frame.func and not any(skip.match(frame.func) for skip in skips):
            return frame
    return None
