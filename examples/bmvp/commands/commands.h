/* commands.h - the commands of the program; argv[0] is the command's name, the result its exit code (cli.h) */
#ifndef COMMANDS_H_INCLUDED
#define COMMANDS_H_INCLUDED
int command_phantom(int argc, char **argv);
int command_list(int argc, char **argv);
int command_prepare(int argc, char **argv);
int command_pretrain(int argc, char **argv);
int command_evaluate(int argc, char **argv);
int command_split(int argc, char **argv);
int command_finetune(int argc, char **argv);
int command_predict(int argc, char **argv);
int command_embed(int argc, char **argv);
int command_convert(int argc, char **argv);
int command_info(int argc, char **argv);
#endif
