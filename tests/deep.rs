//! probe
use aya::programs::Program;
use aya::VerifierLogLevel;
use naikon_userspace::kernel::{OBJECT, loader};
use crate::verdict::fitting;

#[test]
fn probe() {
    let Ok(names) = std::env::var("PROBE") else { return };
    for name in names.split(',') {
        let shape = fitting(&[]);
        let mut ebpf = loader(false, &shape).verifier_log_level(VerifierLogLevel::STATS).load(OBJECT).unwrap();
        let begun = std::time::Instant::now();
        let result = match ebpf.program_mut(name).unwrap() {
            Program::Xdp(program) => program.load().and_then(|()| program.info()),
            Program::SchedClassifier(program) => program.load().and_then(|()| program.info()),
            _ => panic!(),
        };
        match result {
            Ok(info) => println!("{name}: {:?} insns {:?} jitted {} in {:?}", info.verified_instruction_count(), info.size_translated(), info.size_jitted(), begun.elapsed()),
            Err(error) => { let text = format!("{error:?}"); println!("{name}: {} .. {} in {:?}", &text[..text.len().min(100)], &text[text.len().saturating_sub(3000)..].replace("\\n", "\n"), begun.elapsed()) },
        }
    }
}
