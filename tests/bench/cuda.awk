# cuda.awk - the table of cuda.sh: PyTorch's lines, then ours. A goal that is missed has a "!".

function goal(text, met) { return text (met ? "" : "!") }
function goals(r, ms, ratio, peak,   g) {
    if (r == "real") {
        g = goal("13 ms", ms <= 13) " " goal("4 GB", peak <= 4000)
        return ratio == "" ? g : g " " goal("4 x", ratio >= 4)
    }
    if (r == "inference") return goal("3 ms", ms <= 3)
    if (r == "uniunet_step" && ratio != "") return goal("1 x", ratio >= 1)
    return "-"
}

FILENAME == ARGV[1] {
    if (field("torch") != "") torch = "PyTorch " field("torch") ", CUDA " field("cuda") ", cuDNN " field("cudnn")
    else if (field("row") != "") { peer[field("row")] = field("median_ms"); how[field("row")] = field("layout") }
    next
}
field("gpu") != "" {
    print field("gpu") ", compiler " field("compiler")
    if (torch != "") print torch
    printf("\n| row | precision | crops | ms | TFLOP/s | planned MB | measured MB | PyTorch | its best | times | goal |\n")
    printf("|---|---|---:|---:|---:|---:|---:|---:|---|---:|---|\n")
    next
}
field("row") != "" {
    r = field("row")
    ms = field("median_ms") + 0
    ratio = r in peer ? peer[r] / ms : ""
    printf("| %s | %s | %s | %s | %.1f | %.0f | %.0f | %s | %s | %s | %s |\n", r, field("precision"), field("batch"), span(ms), field("gflops") / 1000,
           field("plan_mb"), field("peak_mb"), r in peer ? span(peer[r]) : "-", r in how ? how[r] : "-",
           ratio == "" ? "-" : sprintf("%.2f", ratio), goals(r, ms, ratio, field("peak_mb") + 0))
}
