// The last step of a sign-in for the command line: what a person would click. Without scripts, they do.
document.getElementById("follow").click();
