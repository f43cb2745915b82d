# table.awk - one table of what run.sh measured: machine lines, PyTorch's line, peers, ours, each a line of JSON.
# -v json=FILE gets a line for each row: {"row", "ours", "peer", "ratio", "goal", "missed"}.

function percent(share) { return share == "" ? "-" : sprintf("%.0f%%", share * 100) }
function some(x, form) { return x > 0 ? sprintf(form, x) : "-" }
# A goal and "!" when it is missed; counted.
function aim(text, met) {
    if (!met) { missed = 1; ++all_missed }
    return text (met ? "" : "!")
}
function goals(r, ms, ratio, peak, weights,   g) {
    g = r in within ? aim(span(within[r]), ms <= within[r]) : ""
    if (r in faster && ratio != "") g = aim(sprintf("%.2g x", faster[r]), ratio >= faster[r])
    else if (r in faster) g = sprintf("%.2g x", faster[r])
    if (r == "real" && peak) g = g " " aim("6.5G", peak <= 6.5 * GIB)
    if (r == "real") real_ms = ms
    if (r == "real_checkpoint" && peak) g = aim("1.25x", !real_ms || ms <= 1.25 * real_ms) " " aim("3.5G", peak <= 3.5 * GIB)
    if (r == "inference" && peak) g = g " " aim("0.3G*", peak - weights < 0.3 * GIB)
    return g == "" ? "-" : g
}
function short(how) {
    sub(/channels_last_3d loose/, "loose", how)
    sub(/channels_last_3d compiled/, "compiled", how)
    sub(/channels_last_3d/, "last", how)
    sub(/conv3d/, "conv", how)
    sub(/contiguous/, "first", how)
    sub(/scaled_dot_product/, "sdpa", how)
    sub(/ of /, "/", how)
    sub(/ cases/, "", how)
    return how
}

BEGIN {
    GIB = 1073.741824 # in MB
    within["step"] = 1100; within["real"] = 6800; within["inference"] = 320
    within["unet3d_forward"] = 1100; within["unet3d_step"] = 3300
    faster["uniunet_forward"] = faster["uniunet_step"] = 1.3
    faster["unetr_forward"] = faster["swin_unetr_forward"] = 1.1; faster["unetr_step"] = faster["swin_unetr_step"] = 1.3
    within["depthwise5_64_48_forward"] = 5; within["depthwise5_64_48_backward"] = 12
    within["prepare"] = 150; within["read_crop"] = 5
    within["register"] = 500; within["prepare_heads"] = 6000
    faster["read_nii_gz"] = 2; faster["read_nii_gz_bare"] = 0.91 # within 10 % of libdeflate alone
    within["hd95_tumour"] = within["hd95_brain"] = within["hd95_far"] = within["hd95_real"] = 100
}
FILENAME == ARGV[1] {
    if (field("ceiling") + 0 > ceiling) { ceiling = field("ceiling") + 0; one = field("ceiling_1"); machine = $0 }
    next
}
FILENAME == ARGV[2] { torch = $0; next }
FILENAME == ARGV[3] { peer[field("row")] = $0; next }
{
    ours = $0
    if (!lines++) heading()
    r = field("row"); ms = field("median_ms") + 0; spread = field("spread"); rate = field("gflops") + 0
    peak = field("peak_mb") + 0; plan = field("plan_mb") + 0; weights = field("weights_mb") + 0; check = field("check") + 0
    theirs = ratio = their_spread = how = ""
    their_peak = their_check = 0
    if (r in peer) {
        $0 = peer[r]
        theirs = field("median_ms"); their_spread = field("spread"); their_peak = field("peak_mb") + 0; how = field("layout")
        their_check = field("check") + 0
        ratio = theirs / ms
        if (field("cases") != "") {
            note = "real: PyTorch holds all 3 cases in the memory that is free here."
            if (field("cases") < 3)
                note = sprintf("real: PyTorch was measured with %d of the 3 cases: %s, %.1f GB.\nAll 3 need about %.1f GB and do not fit; the table scales to them.",
                               field("cases"), span(field("measured_ms")), field("measured_mb") / 1000, their_peak / 1000)
        }
    }
    if (check && their_check && !((check - their_check) ^ 2 <= (1e-3 * check) ^ 2)) {
        differ = differ sprintf("%s: the peer computes something else: %.9g, ours %.9g\n", r, their_check, check)
    }
    missed = 0
    goal = goals(r, ms, ratio, peak, weights)
    name = r
    sub(/_forward$/, " fwd", name)
    sub(/_backward$/, " bwd", name)
    printf("%-22s %7s %4s %5s %4s %5s %5s %4s %7s %4s %5s %5s %-15s %s\n", name, span(ms), percent(spread), some(rate, "%.0f"),
           rate > 0 && ceiling > 0 ? percent(rate / ceiling) : "-", some(peak, "%.0f"), some(plan, "%.0f"),
           peak > 0 && plan > 0 ? sprintf("%+.0f%%", (peak / plan - 1) * 100) : "-", span(theirs), percent(their_spread),
           some(their_peak, "%.0f"), ratio == "" ? "-" : sprintf(ratio < 99 ? "%.2f" : "%.0f", ratio), goal, short(how))
    printf("{\"row\":\"%s\",\"ours\":%s,\"peer\":%s,\"ratio\":%s,\"goal\":\"%s\",\"missed\":%d}\n", r, ours, r in peer ? peer[r] : "null",
           ratio == "" ? "null" : sprintf("%.3f", ratio), goal, missed) > json
}
function heading() {
    $0 = machine
    printf("\n%s, %d threads, %s, compiler %s; multiply-add ceiling %.0f GFLOP/s (1 thread: %.0f)\n", field("cpu"), field("threads"),
           field("simd"), field("compiler"), ceiling, one)
    $0 = torch
    if (torch != "") printf("PyTorch %s, %d threads, %s%s\n", field("torch"), field("threads"), field("blas"),
                            field("mkl_fast_kernels") ? " with its AVX-512 kernels" : "")
    print (machine == "" ? "{}" : machine) > json
    if (torch != "") print torch > json
    printf("\n%-22s %7s %4s %5s %4s %5s %5s %4s %7s %4s %5s %5s %-15s %s\n", "row", "ours", "+-", "GFLOP", "ceil", "MB", "plan", "off",
           "peer", "+-", "MB", "ratio", "goal", "peer is")
    $0 = ours
}
END {
    print "\n+-: (slowest - fastest) / median of the runs. GFLOP: 1e9 operations a second; ceil: share of the multiply-add ceiling."
    print "MB: largest resident size less what the process held before; plan: the dry run, off: how far. ratio: peer / ours."
    print "!: goal missed; G: GiB of memory, *: beyond the weights. The peer is PyTorch in channels_last_3d (last; loose: without"
    print "forced strides; compiled: torch.compile with frozen weights) or contiguous (first) where no other is named."
    printf("One row again: build/bench_step --threads %d --only NAME (fwd: _forward, bwd: _backward), tests/bench/twin.py the same.\n", threads)
    if (note != "") print note
    if (differ != "") printf("%s", differ)
    printf("%d goals missed.\n", all_missed)
    if (differ != "") exit 1
}
