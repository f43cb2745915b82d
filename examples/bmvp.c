/* bmvp.c - the program: what the headers can do, from the command line. Each command is a file in bmvp/. */
#define _DEFAULT_SOURCE
#include "commands/commands.h"
#include "commands/cli.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct { const char *name; int (*run)(int, char **); const char *text; } command[] = {
    { "phantom", command_phantom, "make multi-modal brain phantoms, a data set that anybody can have" },
    { "list", command_list, "which files of a data set make which cases" },
    { "prepare", command_prepare, "reorient, resample, crop and scale cases for training" },
    { "pretrain", command_pretrain, "pre-train a network with the three tasks of BrainMVP" },
    { "split", command_split, "split cases into training, validation and test by patient" },
    { "finetune", command_finetune, "train a segmentation or classification network from it" },
    { "predict", command_predict, "segment or classify cases with it" },
    { "evaluate", command_evaluate, "compare predictions with the truth" },
    { "embed", command_embed, "embeddings and feature maps of volumes" },
    { "convert", command_convert, "checkpoints: PyTorch .pt <-> .safetensors" },
    { "info", command_info, "what is in a volume, checkpoint or data list" },
};
enum { N_COMMANDS = (int)(sizeof command / sizeof *command) };

static void usage(FILE *f)
{
    int i;
    fprintf(f, "bmvp - multi-modal vision pre-training for 3-D medical images (BrainMVP)\n\nusage: bmvp COMMAND "
               "[options]\n\n");
    for (i = 0; i < N_COMMANDS; ++i) fprintf(f, "  %-9s %s\n", command[i].name, command[i].text);
    fprintf(f, "\nbmvp COMMAND --help lists the options of a command. Exit codes: 0 done, 1 failed, 2 bad options.\n");
}

/* What was printed has arrived, or the command has failed. A pipe whose reader went away wanted no more. */
static int check_output(int code)
{
    struct stat s;
    const int lost = fflush(stdout) != 0 || ferror(stdout);
    if (!lost || code != CLI_DONE || (fstat(STDOUT_FILENO, &s) == 0 && (S_ISFIFO(s.st_mode) || S_ISSOCK(s.st_mode))))
        return code;
    fprintf(stderr, "bmvp: what it has to say cannot be written to standard output\n");
    return CLI_FAILED;
}

int main(int argc, char **argv)
{
    char words[128] = "", near[32];
    int i;
    signal(SIGXFSZ, SIG_IGN); /* a full disk is an error of the write, not of the process */
    for (i = 0; i < N_COMMANDS && argc > 1; ++i) {
        if (strcmp(argv[1], command[i].name) == 0) return check_output(command[i].run(argc - 1, argv + 1));
        snprintf(words + strlen(words), sizeof words - strlen(words), "%s%s", i ? "|" : "", command[i].name);
    }
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)) {
        usage(stdout);
        return check_output(CLI_DONE);
    }
    if (argc > 1) {
        fprintf(stderr, "bmvp: there is no command '%s'", argv[1]);
        if (cli_nearest(argv[1], words, near, sizeof near)) fprintf(stderr, "; did you mean '%s'?", near);
        fprintf(stderr, "\n\n");
    }
    usage(stderr);
    return CLI_USAGE;
}
