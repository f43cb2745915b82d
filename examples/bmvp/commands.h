/* commands.h - the commands of the program; argv[0] is the command's name, the result its exit code (cli.h) */
#ifndef BMVP_COMMANDS_H_INCLUDED
#define BMVP_COMMANDS_H_INCLUDED
int bmvp_cmd_phantom(int argc, char **argv);
int bmvp_cmd_prepare(int argc, char **argv);
int bmvp_cmd_pretrain(int argc, char **argv);
int bmvp_cmd_evaluate(int argc, char **argv);
int bmvp_cmd_split(int argc, char **argv);
int bmvp_cmd_finetune(int argc, char **argv);
int bmvp_cmd_predict(int argc, char **argv);
int bmvp_cmd_embed(int argc, char **argv);
int bmvp_cmd_convert(int argc, char **argv);
int bmvp_cmd_info(int argc, char **argv);
#endif
