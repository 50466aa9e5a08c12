//! The fence: system calls that naikon never makes, and with which somebody who took it over would begin (seccomp(2)).
//!
//! It says what is refused, not what is allowed: a library that one day asks for something new must not end enforcement. Not
//! Landlock: whoever has a domain may look at no process outside of it, and naikon tells the executables of callers and spares the
//! peers of login sessions by looking at sshd's.

use std::{collections::BTreeMap, env::consts::ARCH};

#[cfg(target_arch = "x86_64")]
use seccompiler::sock_filter;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Refused whatever the arguments.
const REFUSED: &[i64] = &[
    // Other programs, and other processes' memory and descriptors.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Another view of the machine.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_mknodat,
    // Another user.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    // Another kernel, or the machine as a whole.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Large parts of the kernel that naikon has no use for; the first would also go round this filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_fanotify_init,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// The same of calls that other processors lack, or their C libraries do not name.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_mknod,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_kexec_file_load,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

/// Families of sockets that naikon opens: control and service manager, metrics, netlink.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Puts the fence around this thread and all that it will start, for good.
///
/// # Errors
///
/// Where the kernel has no filters, or somebody does not let this process have one.
pub(super) fn raise() -> Result<(), Error> {
    let arch = TargetArch::try_from(ARCH)?;
    let refuse = |rules: Rules, errno: i32| {
        let answer = SeccompAction::Errno(errno.cast_unsigned());
        let program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)?.try_into()?;
        apply_filter(&program)
    };
    #[cfg(target_arch = "x86_64")]
    apply_filter(&x32(libc::ENOSYS))?;
    // Its flags lie in memory, where no filter looks. Told that there is no such call, the C library starts threads with the older.
    refuse([(libc::SYS_clone3, Vec::new())].into(), libc::ENOSYS)?;
    refuse(rules()?, libc::EPERM)
}

/// Refuses the calls of x32, the other set of numbers that a process of 64 bits has (`__X32_SYSCALL_BIT`,
/// arch/x86/include/uapi/asm/unistd.h): where the kernel has it, they do the same as those that are refused below. By hand,
/// because the crate's filters know single numbers only.
#[cfg(target_arch = "x86_64")]
fn x32(errno: i32) -> [sock_filter; 4] {
    const X32_BIT: u32 = 0x4000_0000;
    // include/uapi/linux/bpf_common.h; the number is the first field of `struct seccomp_data`.
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    let statement = |code, k| sock_filter { code, jt: 0, jf: 0, k };
    [
        statement(LOAD_WORD, 0),
        sock_filter { code: JUMP_IF_AT_LEAST, jt: 0, jf: 1, k: X32_BIT },
        statement(RETURN, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()),
        statement(RETURN, libc::SECCOMP_RET_ALLOW),
    ]
}

fn rules() -> Result<Rules, BackendError> {
    let when = |conditions: Vec<SeccompCondition>| Ok::<_, BackendError>(vec![SeccompRule::new(conditions)?]);
    let first = |operator, value: i32| {
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, u64::from(value.cast_unsigned()))
    };
    let refused = REFUSED.iter().chain(REFUSED_HERE);
    let mut rules: Rules = refused.map(|call| (*call, Vec::new())).collect();
    // Threads, but no processes.
    let is_thread = SeccompCmpOp::MaskedEq(u64::from(libc::CLONE_THREAD.cast_unsigned()));
    rules.insert(libc::SYS_clone, when(vec![first(is_thread, 0)?])?);
    let others = FAMILIES.into_iter().map(|family| first(SeccompCmpOp::Ne, family));
    rules.insert(libc::SYS_socket, when(others.collect::<Result<_, _>>()?)?);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use std::{
        fs, io,
        net::{TcpListener, UdpSocket},
        os::unix::net::UnixDatagram,
        process::Command,
        thread,
    };

    use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
    use rustix::{
        io::Errno,
        net::{AddressFamily, SocketType, socket},
        process::chroot,
    };

    use super::*;

    fn starts_a_program() -> io::Result<()> {
        Command::new("true").status().map(drop)
    }

    #[test]
    fn fenced_thread_serves_and_starts_threads_but_no_programs() {
        let alien = || socket(AddressFamily::from_raw(libc::AF_ALG as u16), SocketType::SEQPACKET, None).err();
        assert!(starts_a_program().is_ok() && alien() != Some(Errno::PERM), "without the fence both are possible");
        thread::spawn(move || {
            raise().unwrap();
            assert_eq!(starts_a_program().unwrap_err().raw_os_error(), Some(libc::EPERM));
            assert_eq!(alien(), Some(Errno::PERM));
            assert_eq!(chroot("/").err(), Some(Errno::PERM));
            UdpSocket::bind("127.0.0.1:0").unwrap();
            TcpListener::bind("127.0.0.1:0").unwrap();
            UnixDatagram::unbound().unwrap();
            Socket::new(NETLINK_ROUTE).unwrap();
            let child = thread::spawn(|| starts_a_program().unwrap_err().raw_os_error());
            assert_eq!(child.join().unwrap(), Some(libc::EPERM), "what it starts is fenced, too");
        })
        .join()
        .unwrap();
        assert!(starts_a_program().is_ok(), "other threads are not");
    }

    /// The errno of a getpid that is called by this number; 0 for none.
    #[cfg(target_arch = "x86_64")]
    fn errno_of_getpid(number: &str) -> String {
        let script = format!("print syscall({number}) < 0 ? $! + 0 : 0");
        String::from_utf8(Command::new("perl").args(["-e", &script]).output().unwrap().stdout).unwrap()
    }

    /// Fault: other-abi.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn calls_of_x32_are_refused_and_no_others() {
        // Many kernels answer ENOSYS by themselves: another errno can only be the filter's. What the whole fence lets nobody
        // start may be started behind this filter alone.
        let refused = || {
            apply_filter(&x32(libc::EDOM)).unwrap();
            [errno_of_getpid("39"), errno_of_getpid("0x40000000 | 39")]
        };
        assert_eq!(thread::spawn(refused).join().unwrap(), ["0".to_owned(), libc::EDOM.to_string()]);
        assert_ne!(errno_of_getpid("0x40000000 | 39"), libc::EDOM.to_string(), "it should be the filter's");
    }

    #[test]
    fn fence_has_all_of_its_filters() {
        let count = || {
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
            line.and_then(|count| count.trim().parse::<u32>().ok())
        };
        // Kernels before 5.10 do not tell.
        let Some(before) = count() else { return };
        let fenced = thread::spawn(move || {
            raise().unwrap();
            count()
        });
        let expected = if cfg!(target_arch = "x86_64") { 3 } else { 2 };
        assert_eq!(fenced.join().unwrap(), Some(before + expected));
    }
}
